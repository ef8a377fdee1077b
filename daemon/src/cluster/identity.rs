//! The node's identity: made of its files at the start, and anew when they change or its certificate gets old.
//!
//! What cannot be made is logged and tried again; what ran goes on. A node keeps its name for as long as it runs:
//! an identity of another key is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use darter_transport::identity::files::{self, FileError};
use darter_transport::identity::{Identities, Identity, IdentityError, LEAF_LIFETIME, NodeKey};
use darter_transport::node::{NodeId, Role};
use tokio::sync::Notify;

use crate::config::{ClusterSettings, IdentitySource};
use crate::sandbox;

/// How often the files are looked at. Kubernetes itself takes a minute to bring a changed secret to a node.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After a failure; twice as long after each further one.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);

/// Why there is no identity, or no new one. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NoIdentity {
    /// The files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// What is in them.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A node that runs cannot become another.
    #[error(
        "the files make this node {found}, a {found_role:?}, and it runs as {own}, a {own_role:?}: restart it, or give a \
         renewed certificate the key and the role of the old one"
    )]
    AnotherNode {
        /// By the files.
        found: NodeId,
        /// By the files.
        found_role: Role,
        /// As it started.
        own: NodeId,
        /// As it started.
        own_role: Role,
    },
}

/// Keeps the identity fresh; see [`keep`](Self::keep).
#[derive(Debug)]
pub struct Keeper {
    maker: Maker,
    schedule: Schedule,
    identities: Arc<Identities>,
}

/// The identity of a node that is in this cluster, and what keeps it fresh. The data directory has to be there: a node
/// that has secrets keeps its key in it.
///
/// # Errors
/// A file cannot be read or used.
pub fn open(cluster: &ClusterSettings, data_dir: &Path) -> Result<(Arc<Identities>, Keeper), NoIdentity> {
    let node_key = match &cluster.identity {
        IdentitySource::Secrets(_) => Some(files::node_key(data_dir)?),
        IdentitySource::Files { .. } => None,
    };
    let maker = Maker { source: cluster.identity.clone(), role: cluster.role, node_key };
    let look = Look::at(&maker.source);
    let identity = maker.identity(SystemTime::now())?;
    let own = identity.own();
    tracing::info!(node = %own.id, role = ?own.role, "this node has an identity in its cluster");
    let schedule = Schedule::new(look, identity.renew_at());
    let identities = Arc::new(Identities::new(identity));
    Ok((Arc::clone(&identities), Keeper { maker, schedule, identities }))
}

impl Keeper {
    /// Renews the identity when it is time, when its files change, and when it is `asked` to, which is when the
    /// configuration has been read again. Ends only when it is dropped.
    pub async fn keep(mut self, asked: Arc<Notify>) {
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = asked.notified() => true,
            };
            // A disk that does not answer must keep nothing else waiting.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(SystemTime::now(), is_asked);
                self
            });
            match looked.await {
                Ok(kept) => self = kept,
                Err(error) => {
                    tracing::error!(%error, "the identity is not renewed any more: restart within half a day");
                    return;
                }
            }
        }
    }

    fn look(&mut self, now: SystemTime, is_asked: bool) {
        let look = Look::at(&self.maker.source);
        let Some(why) = self.schedule.due(now, &look).or(is_asked.then_some(Why::Asked)) else { return };
        let current = self.identities.current();
        match self.maker.another(&current, now) {
            Ok(identity) => {
                self.schedule.made(look, identity.renew_at());
                self.identities.replace(identity);
                match why {
                    Why::Changed => tracing::info!(
                        source = %self.maker.source,
                        "the files of this node's identity have changed: connections that begin go by them"
                    ),
                    Why::Old | Why::Failed => tracing::info!("this node's certificate has been renewed"),
                    Why::Asked => tracing::debug!("this node's identity has been made again"),
                }
            }
            Err(error) => {
                let retry_after = self.schedule.failed(look, now);
                let hint = match &error {
                    NoIdentity::Files(FileError::Io { source, .. }) => sandbox::hint(source),
                    _ => "",
                };
                tracing::error!(
                    %error, retry_after_s = retry_after.as_secs(),
                    "this node's identity cannot be renewed; it goes on with the one that it has until that expires{hint}"
                );
            }
        }
    }
}

/// Makes identities of one node.
#[derive(Debug)]
struct Maker {
    source: IdentitySource,
    role: Role,
    /// Where certificates are issued by the node itself.
    node_key: Option<NodeKey>,
}

impl Maker {
    fn identity(&self, now: SystemTime) -> Result<Identity, NoIdentity> {
        match (&self.source, &self.node_key) {
            (IdentitySource::Secrets(path), Some(key)) => {
                Ok(Identity::from_secrets(&files::secrets(path)?, self.role, key, now)?)
            }
            (IdentitySource::Secrets(_), None) => unreachable!("a node with secrets has read its key"),
            (IdentitySource::Files { ca, cert, key }, _) => Ok(files::identity(ca, cert, key, now)?),
        }
    }

    /// One for the same node.
    fn another(&self, current: &Identity, now: SystemTime) -> Result<Identity, NoIdentity> {
        let identity = self.identity(now)?;
        let (found, own) = (identity.own(), current.own());
        if found == own {
            return Ok(identity);
        }
        Err(NoIdentity::AnotherNode {
            found: found.id,
            found_role: found.role,
            own: own.id,
            own_role: own.role,
        })
    }
}

/// When to make the next identity. Pure.
#[derive(Debug)]
struct Schedule {
    /// The files, when they were read last.
    seen: Look,
    renew_at: SystemTime,
    failures: u32,
}

/// Why an identity is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// The files look otherwise.
    Changed,
    /// The certificate is half through its life, or the time of another secret has come.
    Old,
    /// It did not work the last time.
    Failed,
    /// Somebody wants it.
    Asked,
}

impl Schedule {
    fn new(seen: Look, renew_at: SystemTime) -> Self {
        Self { seen, renew_at, failures: 0 }
    }

    fn due(&self, now: SystemTime, look: &Look) -> Option<Why> {
        if *look != self.seen {
            return Some(Why::Changed);
        }
        // No certificate is renewed that late: this machine's clock has been put back, and others may take the
        // certificate for one of the future.
        let is_put_back = self.renew_at > now + LEAF_LIFETIME;
        let why = if self.failures == 0 { Why::Old } else { Why::Failed };
        (now >= self.renew_at || is_put_back).then_some(why)
    }

    fn made(&mut self, look: Look, renew_at: SystemTime) {
        *self = Self::new(look, renew_at);
    }

    /// When it is tried again, if the files stay as they are.
    fn failed(&mut self, look: Look, now: SystemTime) -> Duration {
        let retry_after = (RETRY_AFTER * 2_u32.saturating_pow(self.failures.min(10))).min(RETRY_AFTER_MAX);
        *self = Self { seen: look, renew_at: now + retry_after, failures: self.failures.saturating_add(1) };
        retry_after
    }
}

/// What files look like from outside; one that is replaced or written looks otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Look(Vec<Option<FileLook>>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct FileLook {
    device: u64,
    inode: u64,
    length_bytes: u64,
    /// Seconds and nanoseconds; of the content, and of the file as a whole.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn at(source: &IdentitySource) -> Self {
        let paths: Vec<&PathBuf> = match source {
            IdentitySource::Secrets(path) => vec![path],
            IdentitySource::Files { ca, cert, key } => vec![ca, cert, key],
        };
        Self(paths.into_iter().map(|path| FileLook::at(path)).collect())
    }
}

impl FileLook {
    /// Through links: Kubernetes changes a secret by pointing one elsewhere.
    fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use darter_transport::identity::{ClusterSecrets, PEER_NAME, SEED_NAME};
    use darter_transport::lane::Lanes;

    use super::super::pem::Authority;
    use super::*;
    use crate::config::ClusterLimits;

    const HOUR: Duration = Duration::from_secs(3600);

    fn look(inode: u64) -> Look {
        let (modified, changed) = ((0, 0), (0, 0));
        Look(vec![Some(FileLook { device: 1, inode, length_bytes: 2, modified, changed })])
    }

    #[test]
    fn it_is_time_when_the_files_change_or_the_certificate_is_old() {
        let now = UNIX_EPOCH + 1000 * HOUR;
        let schedule = Schedule::new(look(1), now + 12 * HOUR);
        let check = |after: Duration, inode, why| {
            assert_eq!(schedule.due(now + after, &look(inode)), why, "{after:?} {inode}");
        };
        check(Duration::ZERO, 1, None);
        check(12 * HOUR - Duration::from_secs(1), 1, None);
        check(12 * HOUR, 1, Some(Why::Old));
        check(Duration::ZERO, 2, Some(Why::Changed));
        assert_eq!(schedule.due(now, &Look(vec![None])), Some(Why::Changed), "it is gone");
        assert_eq!(schedule.due(now - 13 * HOUR, &look(1)), Some(Why::Old), "the clock was put back");
        assert_eq!(schedule.due(now - 11 * HOUR, &look(1)), None);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_or_when_the_files_change() {
        let mut now = UNIX_EPOCH + 1000 * HOUR;
        let mut schedule = Schedule::new(look(1), now);
        for expected_s in [60, 120, 240, 480, 900, 900] {
            assert_eq!(schedule.failed(look(1), now), Duration::from_secs(expected_s));
            assert_eq!(schedule.due(now + Duration::from_secs(expected_s - 1), &look(1)), None);
            assert_eq!(schedule.due(now, &look(2)), Some(Why::Changed));
            now += Duration::from_secs(expected_s);
            assert_eq!(schedule.due(now, &look(1)), Some(Why::Failed));
        }
        schedule.made(look(1), now + HOUR);
        assert_eq!(schedule.due(now + HOUR - Duration::from_secs(1), &look(1)), None);
        assert_eq!(schedule.failed(look(1), now), Duration::from_secs(60));
    }

    fn cluster(role: Role, identity: IdentitySource) -> ClusterSettings {
        ClusterSettings {
            role,
            identity,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            join: Vec::new(),
            zone: darter_transport::wire::Text::cut(""),
            lanes: Lanes::Auto,
            limits: ClusterLimits {
                upload_bytes_per_s: None,
                download_bytes_per_s: None,
                concurrent_uploads: 1,
            },
        }
    }

    #[test]
    fn secrets_are_rotated_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let now = SystemTime::now();
        files::write_secrets(&path, &ClusterSecrets::generate(now - HOUR).unwrap()).unwrap();
        let cluster = cluster(Role::Seed, IdentitySource::Secrets(path.clone()));
        let (identities, mut keeper) = open(&cluster, dir.path()).unwrap();
        let first = identities.current();
        assert_eq!(first.own().role, Role::Seed);
        assert_eq!(open(&cluster, dir.path()).unwrap().0.current().own(), first.own(), "its key is kept");
        keeper.look(now, false);
        assert!(Arc::ptr_eq(&first, &identities.current()), "nothing has changed");

        files::add_secrets(&path, now).unwrap();
        keeper.look(now, false);
        let second = identities.current();
        assert!(!Arc::ptr_eq(&first, &second), "the files have changed");
        assert_eq!(second.own(), first.own());

        fs::write(&path, "half a fi").unwrap();
        keeper.look(now, false);
        keeper.look(now, true);
        assert!(Arc::ptr_eq(&second, &identities.current()), "what ran goes on");
        fs::remove_file(&path).unwrap();
        keeper.look(now, false);
        assert!(Arc::ptr_eq(&second, &identities.current()), "what ran goes on");

        // Those of peers make no seed.
        let whole = ClusterSecrets::generate(now).unwrap();
        files::write_secrets(&path, &whole.for_peers()).unwrap();
        keeper.look(now, false);
        assert!(Arc::ptr_eq(&second, &identities.current()), "what ran goes on");
        files::replace_secrets(&path, &whole).unwrap();
        keeper.look(now, false);
        let third = identities.current();
        assert!(!Arc::ptr_eq(&second, &third));
        assert_eq!(third.own(), first.own());
        keeper.look(third.renew_at(), false);
        assert!(!Arc::ptr_eq(&third, &identities.current()), "the certificate was old");
    }

    #[test]
    fn a_certificate_is_renewed_with_the_same_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca", "cert", "key"].map(|name| dir.path().join(name));
        let authority = Authority::new();
        fs::write(&ca, authority.pem()).unwrap();
        let (first_key, other_key) = (authority.key(), authority.key());
        let issue = |name, by: &rcgen::KeyPair| {
            fs::write(&cert, authority.leaf(name, by)).unwrap();
            fs::write(&key, super::super::pem::of_key(by)).unwrap();
        };
        issue(PEER_NAME, &first_key);
        let source = IdentitySource::Files { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
        let (identities, mut keeper) = open(&cluster(Role::Peer, source), dir.path()).unwrap();
        let first = identities.current();
        let now = SystemTime::now();
        for (name, by) in [(PEER_NAME, &other_key), (SEED_NAME, &first_key)] {
            issue(name, by);
            let refused = keeper.maker.another(&first, now);
            assert!(matches!(refused, Err(NoIdentity::AnotherNode { .. })), "{refused:?}");
            keeper.look(now, true);
            assert!(Arc::ptr_eq(&first, &identities.current()));
        }
        issue(PEER_NAME, &first_key);
        keeper.look(now, false);
        assert!(!Arc::ptr_eq(&first, &identities.current()));
        assert!(!dir.path().join(files::NODE_KEY_FILE).exists(), "it has a key of its own");
    }

    #[tokio::test]
    async fn it_looks_again_when_it_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let secrets = ClusterSecrets::generate(SystemTime::now()).unwrap();
        files::write_secrets(&path, &secrets.for_peers()).unwrap();
        let (identities, keeper) =
            open(&cluster(Role::Peer, IdentitySource::Secrets(path)), dir.path()).unwrap();
        let first = identities.current();
        let asked = Arc::new(Notify::new());
        let keeping = tokio::spawn(keeper.keep(Arc::clone(&asked)));
        asked.notify_one();
        while Arc::ptr_eq(&first, &identities.current()) {
            tokio::task::yield_now().await;
        }
        keeping.abort();
    }
}
