//! A changed configuration is taken up without a stop: read again, checked as a whole, and handed to the parts that
//! can change. What is wrong anywhere changes nothing; what only a start can change is named and stays as it is.

use std::path::Path;
use std::sync::Arc;

use darter_engine::Store;
use tokio::sync::{Mutex, Notify, watch};

use crate::access::Access;
use crate::admin::token::Token;
use crate::config::{Changes, ClusterLimits, ConfigError, Inputs, Resolved, Settings, TokenSetting};
use crate::fetch::Pace;
use crate::logs::Verbosity;
use crate::metrics::Registries;
use crate::policy::{NoClient, Policy};

/// The parts of a running daemon that can change.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) access: Arc<Access>,
    pub(crate) prefetch_pace: Arc<Pace>,
    /// What other nodes may take and bring, where there is a cluster.
    pub(crate) peer_limits: watch::Sender<Option<ClusterLimits>>,
    /// With what other machines may change something at the admin port.
    admin_token: watch::Sender<Option<Token>>,
    /// Whoever keeps the identity is asked to look at its files.
    pub(crate) identity_asked: Arc<Notify>,
    /// To each shard its own.
    policies: Vec<watch::Sender<Policy>>,
    store: Store,
    verbosity: Verbosity,
    counts: Arc<Registries>,
}

/// Reads the configuration again when it is asked to, one time after the other.
#[derive(Debug)]
pub(crate) struct Reload {
    inputs: Inputs,
    running: Mutex<Resolved>,
    live: Live,
}

/// What a reload has come to.
#[derive(Clone, Debug)]
pub(crate) struct Reloaded {
    pub(crate) changes: Changes,
    /// About the new configuration, as far as the old one did not give them.
    pub(crate) warnings: Vec<String>,
}

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// Correct it and try again.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    NoClient(#[from] NoClient),
    #[error("the thread that reads the configuration ended by a panic, which is in the log")]
    Ended,
}

/// All that can go wrong has been done.
struct Prepared {
    running: Resolved,
    policies: Vec<Policy>,
    reloaded: Reloaded,
}

impl Reload {
    /// Of a daemon that has started with `running`, from these inputs.
    pub(crate) fn new(inputs: Inputs, running: Resolved, live: Live) -> Self {
        Self { inputs, running: Mutex::new(running), live }
    }

    /// Told when files of the identity may have changed.
    pub(crate) fn identity_asked(&self) -> Arc<Notify> {
        self.live.identity_asked.clone()
    }

    /// What other nodes may take and bring, now and after each change.
    pub(crate) fn peer_limits(&self) -> watch::Receiver<Option<ClusterLimits>> {
        self.live.peer_limits.subscribe()
    }

    /// With what other machines may change something at the admin port.
    pub(crate) fn admin_token(&self) -> Option<Token> {
        self.live.admin_token.borrow().clone()
    }

    /// The file that is read, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.inputs.file.as_deref()
    }

    /// Takes up what the configuration says now, and logs what has become of it. When this returns, every request
    /// that begins goes by it.
    ///
    /// # Errors
    /// The configuration is wrong or cannot be read; nothing has changed.
    pub(crate) async fn run(&self) -> Result<Reloaded, ReloadError> {
        let reloaded = self.take_up().await;
        match &reloaded {
            Ok(reloaded) => reloaded.log(),
            Err(error) => {
                for line in error.to_string().lines() {
                    tracing::error!("the configuration is not taken up, nothing has changed: {line}");
                }
            }
        }
        reloaded
    }

    async fn take_up(&self) -> Result<Reloaded, ReloadError> {
        let mut running = self.running.lock().await;
        let (inputs, before) = (self.inputs.clone(), running.clone());
        let (shards, counts) = (self.live.policies.len(), self.live.counts.clone());
        // Files may be slow, and making clients takes milliseconds.
        let prepared = tokio::task::spawn_blocking(move || prepare(&inputs, &before, shards, &counts)).await;
        let Prepared { running: new, policies, mut reloaded } =
            prepared.map_err(|_| ReloadError::Ended)??;
        self.live.identity_asked.notify_one();
        if !reloaded.changes.at_once.is_empty() {
            let is_verbosity_ours = self.live.take_up(&new.settings, policies);
            if new.settings.log.verbose != running.settings.log.verbose && !is_verbosity_ours {
                reloaded.warnings.push("verbose: without effect, since DARTER_LOG is set".into());
            }
        }
        *running = new;
        Ok(reloaded)
    }
}

fn prepare(
    inputs: &Inputs,
    running: &Resolved,
    shards: usize,
    counts: &Arc<Registries>,
) -> Result<Prepared, ReloadError> {
    let read = inputs.load_again()?;
    let changes = read.changes(running);
    let warnings = read.warnings.iter().filter(|warning| !running.warnings.contains(warning));
    let warnings = warnings.map(ToString::to_string).collect();
    let new = read.taken_up_over(running);
    let policies = match changes.at_once.is_empty() {
        true => Vec::new(),
        false => Policy::for_shards(&new.settings, shards, counts)?,
    };
    Ok(Prepared { running: new, policies, reloaded: Reloaded { changes, warnings } })
}

impl Live {
    /// As a daemon of so many shards on that store starts with them, whose requests to registries are counted in
    /// `counts`; and where each shard finds its policy.
    ///
    /// # Errors
    /// There is no client of registries.
    pub(crate) fn new(
        settings: &Settings,
        shards: usize,
        store: &Store,
        verbosity: Verbosity,
        counts: Arc<Registries>,
    ) -> Result<(Self, Vec<watch::Receiver<Policy>>), NoClient> {
        counts.name_all_of(settings);
        let policies = Policy::for_shards(settings, shards, &counts)?;
        let (policies, followed) = policies.into_iter().map(watch::channel).unzip();
        let access = Access::new(settings.access);
        let prefetch_pace = Arc::new(Pace::new(settings.prefetch_bytes_per_s));
        let live = Self {
            access,
            prefetch_pace,
            peer_limits: watch::Sender::new(settings.cluster.as_ref().map(|cluster| cluster.limits)),
            admin_token: watch::Sender::new(admin_token(settings)),
            identity_asked: Arc::default(),
            policies,
            store: store.clone(),
            verbosity,
            counts,
        };
        Ok((live, followed))
    }

    /// False if the verbosity is not the configuration's to say.
    fn take_up(&self, settings: &Settings, policies: Vec<Policy>) -> bool {
        self.counts.name_all_of(settings);
        for (shard, policy) in self.policies.iter().zip(policies) {
            // A shard that has ended needs none.
            shard.send_replace(policy);
        }
        self.access.set_lasting(settings.access);
        self.prefetch_pace.set_rate(settings.prefetch_bytes_per_s);
        self.peer_limits.send_replace(settings.cluster.as_ref().map(|cluster| cluster.limits));
        self.admin_token.send_replace(admin_token(settings));
        self.store.set_scrub(settings.scrub);
        self.verbosity.set(settings.log.verbose)
    }
}

fn admin_token(settings: &Settings) -> Option<Token> {
    settings.admin_token.as_ref().and_then(TokenSetting::token).cloned()
}

impl Reloaded {
    fn log(&self) {
        let Changes { at_once, at_restart } = &self.changes;
        for change in at_once {
            tracing::info!(key = change.key, old = change.old, new = change.new, "a changed key is taken up");
        }
        for change in at_restart {
            tracing::warn!(
                key = change.key,
                old = change.old,
                new = change.new,
                "a changed key needs a restart"
            );
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        let (taken_up, need_restart) = (at_once.len(), at_restart.len());
        tracing::info!(taken_up, need_restart, "the configuration was read again");
    }
}
