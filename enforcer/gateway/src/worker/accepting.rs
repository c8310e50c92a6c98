//! The listeners that a worker accepts connections from.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use tokio::{sync::Notify, task::JoinSet};

use super::{Change, Worker, accept};
use crate::{
    handshakes::Handshakes,
    listener::{Acceptor, ListenerContext},
};
use enforcer_model::Name;
use enforcer_supervision::{Part, guarded};

/// A task for each listener.
pub(super) struct Accepting {
    worker: Rc<Worker>,
    part: Rc<Part>,
    tasks: JoinSet<()>,
    open: HashMap<Name, Rc<At>>,
}

/// What the connections that one listener accepts are served with.
pub(super) struct At {
    settings: RefCell<(Arc<ListenerContext>, Rc<Handshakes>)>,
    closed: Cell<bool>,
    closes: Notify,
}

impl Accepting {
    pub(super) fn new(worker: Rc<Worker>, part: Rc<Part>) -> Self {
        Self {
            worker,
            part,
            tasks: JoinSet::new(),
            open: HashMap::new(),
        }
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Open(socket, context) => match Acceptor::new(socket) {
                    Ok(acceptor) => {
                        let at = Rc::new(At::new(Arc::clone(&context)));
                        self.open.insert(context.name.clone(), Rc::clone(&at));
                        let task = accept(Rc::clone(&self.worker), acceptor, at);
                        self.tasks.spawn_local(guarded(self.part.guard(), task));
                    }
                    Err(error) => {
                        tracing::error!(listener = %context.name, %error, "a worker cannot watch its socket");
                    }
                },
                Change::Adjust(context) => {
                    if let Some(at) = self.open.get(&context.name) {
                        at.adjust(context);
                    }
                }
                Change::Close(name) => {
                    if let Some(at) = self.open.remove(&name) {
                        at.close();
                    }
                }
            }
        }
        // Tasks of listeners that have been closed.
        while self.tasks.try_join_next().is_some() {}
        // Connections of a listener that is gone look whether they are to end.
        self.worker.live.each(|mark| mark.wake());
    }

    pub(super) fn into_tasks(self) -> JoinSet<()> {
        self.tasks
    }
}

impl At {
    fn new(context: Arc<ListenerContext>) -> Self {
        let handshakes = Rc::new(Handshakes::new(context.handshakes));
        Self {
            settings: RefCell::new((context, handshakes)),
            closed: Cell::new(false),
            closes: Notify::new(),
        }
    }

    /// What a connection that begins now is served with.
    pub(super) fn now(&self) -> (Arc<ListenerContext>, Rc<Handshakes>) {
        self.settings.borrow().clone()
    }

    /// Waits until nothing more is to be accepted.
    pub(super) async fn closes(&self) {
        if !self.closed.get() {
            self.closes.notified().await;
        }
    }

    fn adjust(&self, context: Arc<ListenerContext>) {
        let mut settings = self.settings.borrow_mut();
        // Handshakes under way go on counting unless their number is another one now.
        if settings.0.handshakes != context.handshakes {
            settings.1 = Rc::new(Handshakes::new(context.handshakes));
        }
        settings.0 = context;
    }

    fn close(&self) {
        self.closed.set(true);
        self.closes.notify_one();
    }
}
