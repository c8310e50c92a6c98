//! Ends open connections, on whatever worker they are.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use enforcer_model::flow::{Flow, Whom};

/// Revocations that wait for one worker; who asks for another waits too.
pub(super) const WAITING: usize = 64;

/// Asks a worker to end connections, and is told which it was.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) about: About,
    pub(super) ended: oneshot::Sender<Vec<Flow>>,
}

/// Which connections are to end.
#[derive(Clone, Debug)]
pub(super) enum About {
    Whom(Whom),
    /// Those that rest on a proof that is revoked.
    Revoked,
    /// Those of these clients, each by its [`enforcer_model::address::client_prefix`].
    Clients(Arc<HashSet<IpNet>>),
}

/// Ends connections of the gateway, on all workers.
#[derive(Clone, Debug)]
pub struct Revoker(Arc<[mpsc::Sender<Revocation>]>);

/// How long workers may take to end connections.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has ended.
#[derive(Debug, Default)]
pub struct Ended {
    pub flows: Vec<Flow>,
    /// Workers that have not answered: what they serve ends when they go on.
    pub silent: usize,
}

impl Revoker {
    pub(super) fn new(workers: Vec<mpsc::Sender<Revocation>>) -> Self {
        Self(workers.into())
    }

    /// Ends the connections of `whom` at once, whatever they are doing: their peers get a reset.
    pub async fn revoke(&self, whom: &Whom) -> Ended {
        self.end(About::Whom(whom.clone())).await
    }

    /// Ends the same way all connections that rest on a proof that is revoked, or have a request under way that does.
    pub async fn end_revoked(&self) -> Ended {
        self.end(About::Revoked).await
    }

    /// Ends the same way all connections of `clients`, each named by its [`enforcer_model::address::client_prefix`]. Which they were. Blocks the
    /// thread, so that it must not be one of a runtime.
    pub fn end_clients(&self, clients: &Arc<HashSet<IpNet>>) -> Vec<Flow> {
        let mut asked = Vec::new();
        for worker in self.0.iter() {
            let (ended, answer) = oneshot::channel();
            let about = About::Clients(Arc::clone(clients));
            // A worker that has ended has no connections.
            if worker.blocking_send(Revocation { about, ended }).is_ok() {
                asked.push(answer);
            }
        }
        let answers = asked.into_iter().map(oneshot::Receiver::blocking_recv);
        answers.flat_map(Result::unwrap_or_default).collect()
    }

    async fn end(&self, about: About) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Ended::default();
        let mut asked = Vec::new();
        for worker in self.0.iter() {
            let (ended, answer) = oneshot::channel();
            let about = about.clone();
            match timeout_at(deadline, worker.send(Revocation { about, ended })).await {
                Ok(Ok(())) => asked.push(answer),
                // A worker that has ended has no connections.
                Ok(Err(_)) => {}
                Err(_late) => all.silent += 1,
            }
        }
        for answer in asked {
            match timeout_at(deadline, answer).await {
                Ok(flows) => all.flows.extend(flows.unwrap_or_default()),
                Err(_late) => all.silent += 1,
            }
        }
        all
    }
}
