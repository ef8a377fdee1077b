//! The cluster's secrets, and the file that they stand in.
//!
//! The file is text, so that it can be looked at, carried in a Kubernetes secret and cut down by hand:
//!
//! ```text
//! darter-cluster 1
//! # a comment
//! generation 1795567890
//! seed-secret 9f…
//! peer-secret 07…
//! ```
//!
//! The first line carries the version of the format. A generation begins with the Unix second from which nodes
//! issue their certificates with it; all generations in the file are believed at all times. So a new one can be
//! brought to every node before the first node uses it. In the file for peers `seed-public`, the key that seeds are
//! known by, stands in the place of `seed-secret`: from it no seed certificate can be made. Each secret and key is 32
//! bytes, as 64 hexadecimal digits.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;

use super::authority::Authority;
use super::hex;
use crate::node::Role;

/// The longest file that is read.
pub const SECRETS_BYTES_MAX: usize = 16 * 1024;
/// The most generations that a file may hold.
pub const GENERATIONS_MAX: usize = 4;
/// How long after `--add` nodes begin to issue with the new generation: the time to bring the file to all of them.
pub const ADDED_ISSUES_AFTER: Duration = Duration::from_secs(3600);

const FIRST_LINE: &str = "darter-cluster 1";
const FIRST_WORD: &str = "darter-cluster";

/// 32 bytes that nobody else may know. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; 32]);

impl Secret {
    pub(super) fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The machine gives no random numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this machine gives no random numbers")]
pub struct NoRandomness;

/// What a node holds of the seeds' authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SeedKey {
    /// Enough to be a seed.
    Secret(Secret),
    /// Enough to know one.
    Public([u8; 32]),
}

/// One pair of secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Generation {
    /// Unix seconds.
    pub(super) issues_from_s: u64,
    pub(super) seed: SeedKey,
    pub(super) peer: Secret,
}

/// What makes nodes a cluster: one generation of secrets, or several while they are rotated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterSecrets {
    /// Never empty, the oldest first.
    generations: Vec<Generation>,
}

impl ClusterSecrets {
    /// New secrets, in use from `now` on.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn generate(now: SystemTime) -> Result<Self, NoRandomness> {
        Ok(Self { generations: vec![Generation::random(unix_seconds(now))?] })
    }

    /// Adds a generation that is in use [`ADDED_ISSUES_AFTER`] `now`, and drops those that were out of use already.
    ///
    /// # Errors
    /// The file is one for peers; there are too many generations whose time has not come; no random numbers.
    pub fn add(&mut self, now: SystemTime) -> Result<(), AddError> {
        if self.generations.iter().any(|generation| matches!(generation.seed, SeedKey::Public(_))) {
            return Err(AddError::ForPeers);
        }
        let added = Generation::random(unix_seconds(now + ADDED_ISSUES_AFTER))?;
        self.generations.drain(..self.issuing_index(now));
        if self.generations.len() == GENERATIONS_MAX {
            return Err(AddError::TooMany);
        }
        self.generations.push(added);
        Ok(())
    }

    /// What a node needs that is to be a peer and cannot become a seed.
    #[must_use]
    pub fn for_peers(&self) -> Self {
        let public = |generation: &Generation| Generation {
            seed: SeedKey::Public(generation.seed.public_key()),
            ..generation.clone()
        };
        Self { generations: self.generations.iter().map(public).collect() }
    }

    /// Whether a seed can be made of every generation: they are not those of the file for peers.
    #[must_use]
    pub fn make_seeds(&self) -> bool {
        self.generations.iter().all(|generation| matches!(generation.seed, SeedKey::Secret(_)))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// It is not this format, or another version of it. No message holds a part of a secret.
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        if text.len() > SECRETS_BYTES_MAX {
            return Err(SecretsError::TooLong);
        }
        let mut lines = text.lines().map(str::trim).enumerate().map(|(index, line)| (index + 1, line));
        match lines.next() {
            Some((_, FIRST_LINE)) => {}
            Some((_, line)) if line.split_whitespace().next() == Some(FIRST_WORD) => {
                return Err(SecretsError::OtherVersion);
            }
            _ => return Err(SecretsError::Foreign),
        }
        let mut generations: Vec<Generation> = Vec::new();
        let mut unfinished: Option<Unfinished> = None;
        for (line, text) in lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
            let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let value = value.trim_start();
            if key == "generation" {
                if unfinished.is_some() {
                    return Err(SecretsError::Incomplete { line });
                }
                if generations.len() == GENERATIONS_MAX {
                    return Err(SecretsError::TooMany);
                }
                let issues_from_s = value.parse().map_err(|_| SecretsError::Time { line })?;
                unfinished = Some(Unfinished { issues_from_s, seed: None, peer: None });
                continue;
            }
            let Some(current) = &mut unfinished else { return Err(SecretsError::Misplaced { line }) };
            let bytes = || hex::bytes_of(value).ok_or(SecretsError::Digits { line });
            match key {
                "seed-secret" if current.seed.is_none() => {
                    current.seed = Some(SeedKey::Secret(Secret(bytes()?)))
                }
                "seed-public" if current.seed.is_none() => current.seed = Some(SeedKey::Public(bytes()?)),
                "peer-secret" if current.peer.is_none() => current.peer = Some(Secret(bytes()?)),
                _ => return Err(SecretsError::Misplaced { line }),
            }
            if let Unfinished { issues_from_s, seed: Some(seed), peer: Some(peer) } = current {
                let whole =
                    Generation { issues_from_s: *issues_from_s, seed: seed.clone(), peer: peer.clone() };
                generations.push(whole);
                unfinished = None;
            }
        }
        if unfinished.is_some() || generations.is_empty() {
            return Err(SecretsError::Incomplete { line: text.lines().count() });
        }
        generations.sort_by_key(|generation| generation.issues_from_s);
        Ok(Self { generations })
    }

    /// The text of the file, as [`parse`](Self::parse) reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        use fmt::Write as _;
        let mut text = format!("{FIRST_LINE}\n");
        text.push_str(match self.generations[0].seed {
            SeedKey::Secret(_) => {
                "# Who can read this file can join the cluster as a seed and hand out any bytes. Keep it to seeds.\n"
            }
            SeedKey::Public(_) => "# Who can read this file can join the cluster as a peer. Keep it to the nodes.\n",
        });
        for generation in &self.generations {
            let Generation { issues_from_s, seed, peer } = generation;
            let (name, seed) = match seed {
                SeedKey::Secret(secret) => ("seed-secret", &secret.0),
                SeedKey::Public(public) => ("seed-public", public),
            };
            let (seed, peer) = (hex::text_of(seed), hex::text_of(&peer.0));
            let written = writeln!(text, "generation {issues_from_s}\n{name} {seed}\npeer-secret {peer}");
            written.expect("a text takes everything");
        }
        text
    }

    /// The generation that issues `now`: the newest whose time has come, or the oldest where none has.
    pub(super) fn issuing(&self, now: SystemTime) -> &Generation {
        &self.generations[self.issuing_index(now)]
    }

    /// When another generation's time comes.
    pub(super) fn next_issuing_at(&self, now: SystemTime) -> Option<SystemTime> {
        let next = self.generations.get(self.issuing_index(now) + 1)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(next.issues_from_s))
    }

    pub(super) fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.generations.iter()
    }

    fn issuing_index(&self, now: SystemTime) -> usize {
        let now_s = unix_seconds(now);
        self.generations.iter().rposition(|generation| generation.issues_from_s <= now_s).unwrap_or(0)
    }
}

impl Generation {
    fn random(issues_from_s: u64) -> Result<Self, NoRandomness> {
        Ok(Self { issues_from_s, seed: SeedKey::Secret(Secret::random()?), peer: Secret::random()? })
    }
}

impl SeedKey {
    pub(super) fn public_key(&self) -> [u8; 32] {
        match self {
            Self::Secret(secret) => Authority::from_secret(Role::Seed, secret).public_key(),
            Self::Public(public) => *public,
        }
    }
}

struct Unfinished {
    issues_from_s: u64,
    seed: Option<SeedKey>,
    peer: Option<Secret>,
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why no generation was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddError {
    /// Only the file for seeds can be rotated.
    #[error("it is the file for peers: add to the file for seeds, from which the one for peers is made")]
    ForPeers,
    /// None of the generations has been in use.
    #[error(
        "it holds {GENERATIONS_MAX} generations, none of which is out of use: wait until the last one is in use"
    )]
    TooMany,
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why a text is no file of secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretsError {
    /// It does not begin as one.
    #[error("it does not begin with `{FIRST_LINE}`: make one with `darter cluster init`")]
    Foreign,
    /// A format that this code does not know.
    #[error(
        "it has another version than `{FIRST_LINE}`, the only one that this darter reads: install the one that wrote it"
    )]
    OtherVersion,
    /// No file of secrets is that long.
    #[error("it is longer than {SECRETS_BYTES_MAX} bytes")]
    TooLong,
    /// Too many generations.
    #[error(
        "it holds more than {GENERATIONS_MAX} generations: remove those that are out of use, the oldest first"
    )]
    TooMany,
    /// Something is missing before this line, or at the end.
    #[error(
        "line {line}: the generation before it lacks its seed-secret (or seed-public) or its peer-secret"
    )]
    Incomplete {
        /// Counted from 1.
        line: usize,
    },
    /// An unknown word, or a known one where it may not be.
    #[error(
        "line {line}: expected `generation SECONDS`, and then once `seed-secret` or `seed-public`, and `peer-secret`"
    )]
    Misplaced {
        /// Counted from 1.
        line: usize,
    },
    /// Not 64 digits.
    #[error("line {line}: expected 64 lower-case hexadecimal digits")]
    Digits {
        /// Counted from 1.
        line: usize,
    },
    /// Not a time.
    #[error("line {line}: expected the Unix second from which the generation issues")]
    Time {
        /// Counted from 1.
        line: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn after(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut secrets = ClusterSecrets::generate(after(1000)).expect("randomness");
        secrets.add(after(2000)).expect("room");
        assert_eq!(ClusterSecrets::parse(&secrets.to_text()), Ok(secrets.clone()));
        let for_peers = secrets.for_peers();
        assert_eq!(ClusterSecrets::parse(&for_peers.to_text()), Ok(for_peers));
    }

    #[test]
    fn no_seed_secret_is_in_the_file_for_peers() {
        let secrets = ClusterSecrets::generate(NOW).expect("randomness");
        let SeedKey::Secret(seed) = &secrets.generations[0].seed else { panic!("generated whole") };
        assert!(secrets.make_seeds() && !secrets.for_peers().make_seeds());
        let (text, for_peers) = (secrets.to_text(), secrets.for_peers().to_text());
        let seed = hex::text_of(&seed.0);
        assert!(text.contains(&seed) && !for_peers.contains(&seed), "{for_peers}");
        assert!(!for_peers.contains("seed-secret") && for_peers.contains("peer-secret"), "{for_peers}");
    }

    #[test]
    fn an_added_generation_waits_for_its_time_and_then_displaces() {
        let mut secrets = ClusterSecrets::generate(after(0)).expect("randomness");
        let first = secrets.generations[0].clone();
        secrets.add(after(10_000)).expect("room");
        let second = secrets.generations[1].clone();
        assert_eq!((secrets.issuing(after(10_000)), secrets.issuing(after(13_599))), (&first, &first));
        assert_eq!(secrets.next_issuing_at(after(10_000)), Some(after(13_600)));
        assert_eq!((secrets.issuing(after(13_600)), secrets.next_issuing_at(after(13_600))), (&second, None));
        secrets.add(after(20_000)).expect("room");
        assert_eq!(secrets.generations.len(), 2);
        assert_eq!(secrets.generations[0], second);
    }

    #[test]
    fn additions_that_nobody_waits_for_end() {
        let mut secrets = ClusterSecrets::generate(after(0)).expect("randomness");
        let added: Vec<_> = (0..GENERATIONS_MAX).map(|_| secrets.add(after(1))).collect();
        assert_eq!(added.last(), Some(&Err(AddError::TooMany)));
        assert_eq!(secrets.generations.len(), GENERATIONS_MAX);
        assert_eq!(secrets.for_peers().add(NOW), Err(AddError::ForPeers));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let zeros = "0".repeat(64);
        let check = |text: &str, expected: SecretsError| {
            assert_eq!(ClusterSecrets::parse(&text.replace("ZEROS", &zeros)), Err(expected), "{text}");
        };
        check("", SecretsError::Foreign);
        check("apiVersion: v1", SecretsError::Foreign);
        check("darter-cluster 2\n", SecretsError::OtherVersion);
        check("darter-cluster 1\n", SecretsError::Incomplete { line: 1 });
        check("darter-cluster 1\nseed-secret ZEROS", SecretsError::Misplaced { line: 2 });
        check("darter-cluster 1\ngeneration soon", SecretsError::Time { line: 2 });
        check("darter-cluster 1\ngeneration 1\nseed-secret ZEROS", SecretsError::Incomplete { line: 3 });
        check("darter-cluster 1\ngeneration 1\n\npeer-secret 00", SecretsError::Digits { line: 4 });
        let twice = "darter-cluster 1\ngeneration 1\npeer-secret ZEROS\npeer-secret ZEROS";
        check(twice, SecretsError::Misplaced { line: 4 });
        let both = "darter-cluster 1\ngeneration 1\nseed-secret ZEROS\nseed-public ZEROS";
        check(both, SecretsError::Misplaced { line: 4 });
        let cut = "darter-cluster 1\ngeneration 1\npeer-secret ZEROS\ngeneration 2";
        check(cut, SecretsError::Incomplete { line: 4 });
        let one = "generation 1\npeer-secret ZEROS\nseed-public ZEROS\n";
        check(&format!("darter-cluster 1\n{}", one.repeat(GENERATIONS_MAX + 1)), SecretsError::TooMany);
        check(&format!("darter-cluster 1\n#{}", " ".repeat(SECRETS_BYTES_MAX)), SecretsError::TooLong);
    }

    #[test]
    fn no_secret_is_printed() {
        let secrets = ClusterSecrets::generate(NOW).expect("randomness");
        let shown = format!("{secrets:?}");
        assert!(
            shown.contains("Secret(…)") && !shown.contains(&hex::text_of(&secrets.generations[0].peer.0))
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(darter-cluster 1\n)?((generation|seed-secret|seed-public|peer-secret|#) ?[0-9a-f]{0,66}\n){0,20}") {
            if let Ok(secrets) = ClusterSecrets::parse(&text) {
                prop_assert_eq!(ClusterSecrets::parse(&secrets.to_text()), Ok(secrets));
            }
        }
    }
}
