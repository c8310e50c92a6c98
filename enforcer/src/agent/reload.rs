//! SIGHUP: the configuration file, policies and certificates are read again.
//!
//! A thread of its own reads, because disks may not answer. It begins with each message. What of the configuration can
//! change while the agent runs does so as a whole or not at all; the other fields keep their values until a restart, and
//! the log and `enforcer status` name them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    convert,
    denying::{Denier, Failing},
    descriptors::Descriptors,
    run::RunError,
    state::{Configured, Shared},
};
use crate::config::{Config, Differences};
use enforcer_gateway::Listeners;
use enforcer_model::Name;
use enforcer_policy::{Problems, Watch};
use enforcer_supervision::Reader;
use enforcer_telemetry::{audit::record::Event, logging::Verbosity};

/// What is in force while the agent runs, for those who ask when it ends.
#[derive(Debug)]
pub struct Drain(ArcSwap<Duration>);

impl Drain {
    pub fn new(drain: Duration) -> Self {
        Self(ArcSwap::from_pointee(drain))
    }

    /// How long requests under way may take when the agent stops.
    pub fn get(&self) -> Duration {
        **self.0.load()
    }
}

/// What a reload needs.
pub struct Reload {
    pub shared: Arc<Shared>,
    pub watch: Arc<Watch>,
    /// `None`: there is no gateway.
    pub listeners: Option<Arc<Listeners>>,
    pub failing: Arc<Failing>,
    pub drain: Arc<Drain>,
    pub verbosity: Verbosity,
    pub descriptors: Descriptors,
    /// The configuration's file.
    pub file: PathBuf,
    /// As it is in force.
    pub config: Config,
}

impl Reload {
    /// Starts the thread. Each message has everything read once.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut self) -> io::Result<SyncSender<()>> {
        let (ask, asked) = sync_channel(1);
        let reader = Reader::new("configuration");
        self.shared.parts.watch_reader(&reader);
        let run = move || {
            while asked.recv().is_ok() {
                reader.during(|| self.run());
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(run)?;
        Ok(ask)
    }

    fn run(&mut self) {
        tracing::info!("reloading");
        self.watch.read_now();
        self.configure();
        if let Some(Err(error)) = self.listeners.as_deref().map(Listeners::reload_files) {
            tracing::error!(%error, "certificates not reloaded; the old ones stay");
        }
    }

    /// Reads the configuration file, and puts in force what can change.
    fn configure(&mut self) {
        let result = match Config::load(&self.file) {
            Ok(config) => self.follow(config).map_err(|error| error.to_string()),
            Err(problems) => Err(problems.to_string()),
        };
        match result {
            Ok(differences) => self.accepted(&differences),
            Err(why) => self.refused(&self.file, why),
        }
    }

    /// What can fail comes first, and changes nothing if it does.
    fn follow(&mut self, new: Config) -> Result<Differences, RunError> {
        let unknown = crate::config::served::unknown_names(&self.shared.standing().set, &new);
        if let Some(problems) = Problems::of(&unknown) {
            return Err(RunError::Policies(problems));
        }
        let differences = Differences::between(&self.config, &new);
        let denier = match new.gateway.auth_failures {
            Some(limits) if differences.auth_failures => Some(Denier::start(&self.shared, limits)?),
            _ => None,
        };
        if let (Some(listeners), Some(mut gateway)) = (&self.listeners, convert::gateway(&new)) {
            if differences.listeners {
                let changes = listeners.change(&gateway.listeners, gateway.per_source.handshakes)?;
                tracing::info!(
                    added = names(&changes.added),
                    changed = names(&changes.changed),
                    removed = names(&changes.removed),
                    "listeners have changed"
                );
            }
            if differences.limits {
                self.descriptors.fit(&mut gateway);
                listeners.limit(&gateway)?;
            }
        }
        if differences.auth_failures {
            self.failing.set(denier);
        }
        if differences.log {
            self.verbosity.set(new.log.level);
        }
        self.drain.0.store(Arc::new(new.gateway.drain));
        for warning in &new.warnings {
            tracing::warn!(%warning, "configuration");
        }
        self.config.take_over(new);
        self.shared.is_configured_as(&self.config);
        Ok(differences)
    }

    fn accepted(&self, differences: &Differences) {
        let changed = differences.changed();
        let needs_restart = &differences.needs_restart;
        if !needs_restart.is_empty() {
            tracing::warn!(
                fields = needs_restart.join(", "),
                "these fields of the configuration have changed and need a restart; until then the old values hold"
            );
        }
        if changed.is_empty() {
            tracing::info!("nothing that can change without a restart has changed in the configuration");
        } else {
            tracing::info!(fields = changed.join(", "), "changed configuration in force");
            self.shared
                .record(&Event::ConfigurationApplied { changed: &changed });
        }
        self.shared.metrics.configuration_refused.set(0);
        self.shared.change(|standing| {
            standing.configured = Arc::new(Configured {
                refused: None,
                needs_restart: needs_restart.clone(),
            });
        });
    }

    fn refused(&self, file: &Path, why: String) {
        tracing::error!(
            file = %file.display(),
            problems = why,
            "the changed configuration is refused; the last good one stays in force"
        );
        self.shared.record(&Event::ConfigurationRefused { why: &why });
        self.shared.metrics.configuration_failures.inc();
        self.shared.metrics.configuration_refused.set(1);
        self.shared.change(|standing| {
            standing.configured = Arc::new(Configured {
                refused: Some(why),
                needs_restart: standing.configured.needs_restart.clone(),
            });
        });
    }
}

fn names(names: &[Name]) -> String {
    let names: Vec<_> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}
