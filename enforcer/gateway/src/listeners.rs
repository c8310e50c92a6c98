//! The gateway's listeners, and how they change while it runs.
//!
//! A change is prepared as a whole (files read, sockets bound) before any worker is told of it: if one listener cannot be
//! served, all stay as they are.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{
    GatewayError, HANDSHAKES,
    config::{GatewayConfig, HandshakeBudget, Handshakes, ListenerConfig},
    control, expiring,
    listener::{self, ListenerContext},
    metrics::GatewayMetrics,
    sources::Budgets,
    worker::{Change, Command, Limits},
};
use enforcer_model::Name;
use enforcer_tls::{Expiry, ListenerTls, Tickets};

/// All listeners of a gateway.
#[derive(Debug)]
pub struct Listeners {
    metrics: GatewayMetrics,
    tickets: Arc<Tickets>,
    /// How many workers share out what a listener may have under way.
    workers: usize,
    /// Taken by whoever changes listeners, and by nobody else.
    state: Mutex<State>,
    /// Those whose files are looked at: all that serve a connection.
    watched: ArcSwap<Vec<Arc<ListenerContext>>>,
    /// Those that are served, and where; read without waiting for a change that is under way.
    served: ArcSwap<Vec<(SocketAddr, Arc<ListenerContext>)>>,
    /// Whom to tell of changes, in order. Not in the state, which a change that waits for a disk holds.
    told: ArcSwap<Vec<mpsc::UnboundedSender<Command>>>,
}

#[derive(Debug, Default)]
struct State {
    listening: Vec<Listening>,
    budget: Option<HandshakeBudget>,
    budgets: Option<Arc<Budgets>>,
}

/// A listener that is served.
#[derive(Clone, Debug)]
struct Listening {
    config: ListenerConfig,
    context: Arc<ListenerContext>,
    /// Where it listens, port 0 resolved.
    address: SocketAddr,
    /// What connections from before a change of its settings still have.
    earlier: Vec<Weak<ListenerContext>>,
}

/// How a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    pub name: Name,
    pub address: SocketAddr,
    /// Until when its files are valid.
    pub files: Vec<Expiry>,
    /// Why changed files are not in use.
    pub failures: Vec<String>,
}

/// What became of listeners, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerChanges {
    pub added: Vec<Name>,
    pub changed: Vec<Name>,
    pub removed: Vec<Name>,
}

/// A change that is prepared.
#[derive(Default)]
struct Prepared {
    listening: Vec<Listening>,
    /// For each worker.
    workers: Vec<Vec<Change>>,
    /// Whose connections finish what is under way and end.
    retired: Vec<Listening>,
    changes: ListenerChanges,
}

impl ListenerChanges {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Listeners {
    pub(super) fn new(metrics: GatewayMetrics, tickets: Arc<Tickets>, workers: usize) -> Self {
        Self {
            metrics,
            tickets,
            workers,
            state: Mutex::default(),
            watched: ArcSwap::default(),
            served: ArcSwap::default(),
            told: ArcSwap::default(),
        }
    }

    /// Says whom to tell of changes from now on: each worker, in order.
    pub(super) fn tell(&self, workers: Vec<mpsc::UnboundedSender<Command>>) {
        self.told.store(Arc::new(workers));
    }

    /// Where each listener listens, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        let served = self.served.load();
        let named = served.iter();
        named
            .map(|(address, context)| (context.name.clone(), *address))
            .collect()
    }

    /// How each of them is, in the same order.
    #[must_use]
    pub fn status(&self) -> Vec<ListenerStatus> {
        let served = self.served.load();
        let each = served.iter();
        each.map(|(address, context)| {
            let tls = context.tls.as_ref();
            ListenerStatus {
                name: context.name.clone(),
                address: *address,
                files: tls.map_or_else(Vec::new, |tls| tls.expiries()),
                failures: tls.map_or_else(Vec::new, |tls| tls.failures()),
            }
        })
        .collect()
    }

    /// Forgets listeners that have gone once their last connection has ended, and what was counted for them meanwhile. Not
    /// while listeners change: the next time will do.
    pub(super) fn sweep(&self) {
        let is_over = |each: &&Arc<ListenerContext>| each.is_retired() && Arc::strong_count(each) == 1;
        if !self.watched.load().iter().any(|each| is_over(&each)) {
            return;
        }
        let Ok(state) = self.state.try_lock() else { return };
        let watched = self.watched.load_full();
        let (over, left): (Vec<_>, Vec<_>) = watched.iter().partition(is_over);
        let names: Vec<_> = over.iter().map(|each| each.name.clone()).collect();
        self.watched.store(Arc::new(left.into_iter().cloned().collect()));
        for name in names {
            if !state.listening.iter().any(|each| each.config.name == name) {
                self.metrics.forget_listener(name.as_str());
            }
        }
    }

    /// Takes in as much from now on as `config` says: connections in all and of one source, refused credentials, and how
    /// late a worker may be. Connections that there are stay; what sources have used up of refused credentials is forgotten.
    ///
    /// # Errors
    /// No limiter keeps the rate of refused credentials. Nothing has changed then.
    pub fn limit(&self, config: &GatewayConfig) -> Result<(), GatewayError> {
        let limits = Limits::of(config, self.workers)?;
        for worker in self.told.load().iter() {
            // A worker that has ended takes nothing in.
            worker.send(Command::Limits(limits.clone())).unwrap_or_default();
        }
        Ok(())
    }

    /// Serves these listeners and no others from now on. Reads files and binds sockets: not for a worker's thread.
    ///
    /// Connections of a listener that goes, moves, or gets another `tls` finish what is under way and end; those of
    /// one whose other settings change keep the settings that they began with.
    ///
    /// # Errors
    /// Which listener cannot be served, and why. Nothing has changed then.
    pub fn change(
        &self,
        listeners: &[ListenerConfig],
        budget: Option<HandshakeBudget>,
    ) -> Result<ListenerChanges, GatewayError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let same_budget = state.budget == budget;
        let budgets = if same_budget {
            state.budgets.clone()
        } else {
            new_budgets(budget)?
        };
        let mut prepared = Prepared {
            workers: (0..self.workers).map(|_| Vec::new()).collect(),
            ..Prepared::default()
        };
        for config in listeners {
            let known = state
                .listening
                .iter()
                .find(|each| each.config.name == config.name);
            match known {
                Some(known) if known.config == *config && same_budget => {
                    prepared.listening.push(known.clone());
                }
                Some(known) if known.config.address == config.address => {
                    self.adjust(known, config, budgets.as_ref(), &mut prepared)?;
                }
                Some(known) => {
                    prepared.close(known);
                    self.open(config, budgets.as_ref(), &mut prepared)?;
                    prepared.changes.changed.push(config.name.clone());
                }
                None => {
                    self.open(config, budgets.as_ref(), &mut prepared)?;
                    prepared.changes.added.push(config.name.clone());
                }
            }
        }
        for known in &state.listening {
            if !listeners.iter().any(|config| config.name == known.config.name) {
                prepared.close(known);
                prepared.changes.removed.push(known.config.name.clone());
            }
        }
        (state.budget, state.budgets) = (budget, budgets);
        Ok(self.commit(&mut state, prepared))
    }

    /// Tells the workers.
    fn commit(&self, state: &mut State, prepared: Prepared) -> ListenerChanges {
        for listening in &prepared.retired {
            listening.retire();
        }
        let current = prepared.listening.iter();
        let mut watched: Vec<_> = current.map(|each| Arc::clone(&each.context)).collect();
        // Those that retire now are among these.
        watched.extend(
            self.watched
                .load()
                .iter()
                .filter(|each| each.is_retired())
                .cloned(),
        );
        self.watched.store(Arc::new(watched));
        for listening in &prepared.retired {
            expiring::forget_listener(&listening.context, &self.metrics);
        }
        for name in &prepared.changes.removed {
            self.metrics.forget_listener(name.as_str());
        }
        for listening in &prepared.listening {
            expiring::show_listener(&listening.context, &self.metrics);
        }
        for (worker, changes) in self.told.load().iter().zip(prepared.workers) {
            // A worker that has ended has no listeners.
            worker.send(Command::Listeners(changes)).unwrap_or_default();
        }
        let served = prepared.listening.iter();
        let served = served.map(|each| (each.address, Arc::clone(&each.context)));
        self.served.store(Arc::new(served.collect()));
        state.listening = prepared.listening;
        prepared.changes
    }

    /// The sockets of the first workers, which are started with them.
    pub(super) fn start(
        &self,
        listeners: &[ListenerConfig],
        budget: Option<HandshakeBudget>,
    ) -> Result<Vec<Vec<Change>>, GatewayError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let budgets = new_budgets(budget)?;
        let mut prepared = Prepared {
            workers: (0..self.workers).map(|_| Vec::new()).collect(),
            ..Prepared::default()
        };
        for config in listeners {
            self.open(config, budgets.as_ref(), &mut prepared)?;
        }
        (state.budget, state.budgets) = (budget, budgets);
        let workers = std::mem::take(&mut prepared.workers);
        self.commit(&mut state, prepared);
        Ok(workers)
    }

    /// Looks at all files of certificates, authorities and revocation lists, and takes over those that have changed.
    ///
    /// # Errors
    /// The first listener whose files are wrong. The others are taken over.
    pub fn reload_files(&self) -> Result<(), GatewayError> {
        let watched = self.watched.load_full();
        let results: Vec<_> = watched
            .iter()
            .filter(|context| !context.is_retired() || Arc::strong_count(context) > 1)
            .map(|context| {
                control::reload(context, &self.metrics).map_err(|source| GatewayError::Tls {
                    listener: context.name.clone(),
                    source: Box::new(source),
                })
            })
            .collect();
        results.into_iter().collect()
    }

    /// Says when what listeners show and trust expires.
    pub(super) fn show_validity(&self) {
        for context in self.watched.load().iter().filter(|each| !each.is_retired()) {
            expiring::show_listener(context, &self.metrics);
        }
    }

    /// Adds a listener that is not served yet.
    fn open(
        &self,
        config: &ListenerConfig,
        budgets: Option<&Arc<Budgets>>,
        prepared: &mut Prepared,
    ) -> Result<(), GatewayError> {
        let tls = self.load_tls(config)?;
        let context = Arc::new(self.context(config, tls, budgets)?);
        let failed = |source: io::Error| GatewayError::Listen {
            listener: config.name.clone(),
            address: config.address,
            source,
        };
        let port = config.address.port();
        let served = self.served.load();
        let mut ours = served.iter().map(|(address, _)| address);
        let mut new = prepared.listening.iter().map(|each| &each.address);
        let is_ours = ours.any(|address| address.port() == port) || new.any(|address| address.port() == port);
        let sockets: Vec<StdListener> =
            listener::bind(config.address, self.workers, is_ours).map_err(failed)?;
        let address = sockets[0].local_addr().map_err(failed)?;
        for (socket, changes) in sockets.into_iter().zip(&mut prepared.workers) {
            changes.push(Change::Open(socket, Arc::clone(&context)));
        }
        prepared.listening.push(Listening {
            config: config.clone(),
            context,
            address,
            earlier: Vec::new(),
        });
        Ok(())
    }

    /// Changes settings of a listener that stays where it is.
    fn adjust(
        &self,
        known: &Listening,
        config: &ListenerConfig,
        budgets: Option<&Arc<Budgets>>,
        prepared: &mut Prepared,
    ) -> Result<(), GatewayError> {
        let same_tls = known.config.tls == config.tls;
        let tls = if same_tls {
            known.context.tls.clone()
        } else {
            self.load_tls(config)?
        };
        let context = Arc::new(self.context(config, tls, budgets)?);
        for changes in &mut prepared.workers {
            changes.push(Change::Adjust(Arc::clone(&context)));
        }
        let mut earlier = Vec::new();
        if same_tls {
            earlier.extend(
                known
                    .earlier
                    .iter()
                    .filter(|each| each.strong_count() > 0)
                    .cloned(),
            );
            earlier.push(Arc::downgrade(&known.context));
        } else {
            prepared.retired.push(known.clone());
        }
        prepared.listening.push(Listening {
            config: config.clone(),
            context,
            address: known.address,
            earlier,
        });
        if known.config != *config {
            prepared.changes.changed.push(config.name.clone());
        }
        Ok(())
    }

    fn load_tls(&self, config: &ListenerConfig) -> Result<Option<Arc<ListenerTls>>, GatewayError> {
        let load = |tls| ListenerTls::load(tls, &self.tickets).map(Arc::new);
        let tls = config.tls.as_ref().map(load).transpose();
        tls.map_err(|source| GatewayError::Tls {
            listener: config.name.clone(),
            source: Box::new(source),
        })
    }

    fn context(
        &self,
        config: &ListenerConfig,
        tls: Option<Arc<ListenerTls>>,
        shared: Option<&Arc<Budgets>>,
    ) -> Result<ListenerContext, GatewayError> {
        let Handshakes {
            concurrent,
            per_source,
        } = config.handshakes;
        Ok(ListenerContext {
            name: config.name.clone(),
            tls,
            proxy_protocol: config.proxy_protocol.clone(),
            handshakes: concurrent.map_or(HANDSHAKES, |all| all.get().div_ceil(self.workers)),
            budgets: new_budgets(per_source)?.or_else(|| shared.cloned()),
            timeouts: config.timeouts,
            connections: self
                .metrics
                .connections
                .with_label_values(&[config.name.as_str()]),
            retired: AtomicBool::new(false),
        })
    }
}

impl Listening {
    /// Has all connections end after what is under way, whichever settings they have.
    fn retire(&self) {
        self.context.retired.store(true, Ordering::Release);
        for earlier in self.earlier.iter().filter_map(Weak::upgrade) {
            earlier.retired.store(true, Ordering::Release);
        }
    }
}

impl Prepared {
    /// Takes a listener away.
    fn close(&mut self, known: &Listening) {
        for changes in &mut self.workers {
            changes.push(Change::Close(known.config.name.clone()));
        }
        self.retired.push(known.clone());
    }
}

fn new_budgets(budget: Option<HandshakeBudget>) -> Result<Option<Arc<Budgets>>, GatewayError> {
    let new = |HandshakeBudget { rate, burst }| Budgets::new(rate, burst).map(Arc::new);
    budget.map(new).transpose().map_err(GatewayError::Budget)
}
