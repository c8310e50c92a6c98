//! Clients that ask without a pause, and what became of their requests.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ClientConfig;
use tokio::task::JoinSet;

use super::table::Row;
use crate::data_path::support::{
    client::{self, Client},
    in_time,
};

/// What the clients ask for, in turn: services whose endpoints speak HTTP/1.1 and HTTP/2.
const PATHS: [&str; 2] = ["/orders/1", "/calls/1"];

/// How a client asks.
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) config: Arc<ClientConfig>,
    pub(super) http2: bool,
    /// On one connection, for as long as it lasts; else on a new one for each request.
    pub(super) kept: bool,
    /// Ends with its connection, instead of opening another.
    pub(super) doomed: bool,
}

/// Running clients.
pub(super) struct Load {
    clients: Vec<Arc<Record>>,
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

/// What the clients have in common: it changes while they run.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) token: Mutex<String>,
    stop: AtomicBool,
}

/// What a client has seen.
#[derive(Default)]
struct Record {
    name: String,
    http2: bool,
    answered: AtomicUsize,
    connections: AtomicUsize,
    /// Requests that the gateway said not to have taken (GOAWAY), and that went elsewhere.
    moved: AtomicUsize,
    failures: Mutex<Vec<String>>,
    is_cut: AtomicBool,
}

impl Load {
    pub(super) fn start(callers: Vec<Caller>, shared: &Arc<Shared>) -> Self {
        let mut load = Self {
            clients: Vec::new(),
            tasks: JoinSet::new(),
            shared: Arc::clone(shared),
        };
        for caller in callers {
            let record = Arc::new(Record {
                name: caller.name.clone(),
                http2: caller.http2,
                ..Record::default()
            });
            load.clients.push(Arc::clone(&record));
            load.tasks.spawn(caller.run(record, Arc::clone(shared)));
        }
        load
    }

    /// Makes the change, and says how many requests began and ended meanwhile. Each client has one at least.
    pub(super) async fn under(&self, what: &str, change: impl Future<Output = ()>) -> Row {
        self.with(what, change).await.0
    }

    /// The same, of a change that has an outcome.
    pub(super) async fn with<T>(&self, what: &str, change: impl Future<Output = T>) -> (Row, T) {
        let before: Vec<_> = self.clients.iter().map(|client| client.counts()).collect();
        let outcome = change.await;
        self.goes_on(what).await;
        let mut row = Row {
            what: what.to_owned(),
            ..Row::default()
        };
        for (client, before) in self.clients.iter().zip(&before) {
            let [answered, connections, moved] = client.counts();
            let during = answered - before[0];
            assert!(during >= 2, "{what}: {} has asked for nothing", client.name);
            *if client.http2 {
                &mut row.http2
            } else {
                &mut row.http1
            } += during;
            row.connections += connections - before[1];
            row.moved += moved - before[2];
        }
        (row, outcome)
    }

    /// Waits until each client has asked and been answered.
    pub(super) async fn goes_on(&self, what: &str) {
        let answered = |client: &Arc<Record>| client.counts()[0];
        let before: Vec<_> = self.clients.iter().map(answered).collect();
        in_time(what, async {
            let clients = self.clients.iter().zip(&before);
            // The first answer may be that of a request from before.
            while !clients
                .clone()
                .all(|(client, before)| answered(client) >= before + 2)
            {
                self.nothing_failed(what);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.nothing_failed(what);
    }

    fn nothing_failed(&self, what: &str) {
        let failures: Vec<_> = self
            .clients
            .iter()
            .flat_map(|client| {
                let failures = client.failures.lock().unwrap();
                failures
                    .iter()
                    .map(|failure| format!("{}: {failure}", client.name))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(
            failures.is_empty(),
            "{what}: {} failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }

    /// How many clients have been cut.
    pub(super) fn cut(&self) -> usize {
        self.clients
            .iter()
            .filter(|client| client.is_cut.load(Ordering::SeqCst))
            .count()
    }

    /// Waits until all clients have been cut. How many they are.
    pub(super) async fn all_cut(mut self) -> usize {
        while let Some(ended) = in_time("the clients are cut", self.tasks.join_next()).await {
            ended.unwrap();
        }
        assert_eq!(self.cut(), self.clients.len());
        self.cut()
    }

    /// Waits until each client has had that many answers.
    pub(super) async fn answers(&self, count: usize) {
        in_time("each client is answered", async {
            while self.clients.iter().any(|client| client.counts()[0] < count) {
                self.nothing_failed("at the beginning");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub(super) async fn end(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = in_time("the clients end", self.tasks.join_next()).await {
            ended.unwrap();
        }
        self.nothing_failed("at the end");
    }
}

impl Record {
    /// Answers, connections, requests that went elsewhere.
    fn counts(&self) -> [usize; 3] {
        [&self.answered, &self.connections, &self.moved].map(|count| count.load(Ordering::SeqCst))
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }
}

impl Caller {
    async fn run(self, record: Arc<Record>, shared: Arc<Shared>) {
        let mut count = 0;
        while !shared.stop.load(Ordering::SeqCst) {
            let error = match client::tls(self.address, Arc::clone(&self.config)).await {
                Ok(stream) => match Client::try_over(stream).await {
                    Ok(client) => {
                        record.connections.fetch_add(1, Ordering::SeqCst);
                        self.ask(client, &mut count, &record, &shared).await
                    }
                    Err(error) => Some(format!("{error:?}")),
                },
                Err(error) => Some(format!("handshake: {error:?}")),
            };
            match error {
                Some(_) if self.doomed => {
                    record.is_cut.store(true, Ordering::SeqCst);
                    return;
                }
                Some(error) => {
                    record.fail(error);
                    return;
                }
                None => {}
            }
        }
    }

    /// Asks on one connection, until it is to be another. Why a request failed, if one did.
    async fn ask(
        &self,
        mut client: Client,
        count: &mut usize,
        record: &Record,
        shared: &Shared,
    ) -> Option<String> {
        loop {
            *count += 1;
            let path = PATHS[*count % PATHS.len()];
            let mut request = client::get(path);
            let value = format!("Bearer {}", shared.token.lock().unwrap());
            request
                .headers_mut()
                .insert("authorization", value.parse().unwrap());
            let reply = match client.send(request).await {
                Ok(reply) => reply,
                Err(error) if self.http2 && !self.doomed && (error.is_canceled() || error.is_closed()) => {
                    record.moved.fetch_add(1, Ordering::SeqCst);
                    return None;
                }
                Err(error) => return Some(format!("{path}: {error:?}")),
            };
            if reply.status != 200 {
                return Some(format!("{path}: {reply:?}"));
            }
            record.answered.fetch_add(1, Ordering::SeqCst);
            let is_over = reply
                .headers
                .get("connection")
                .is_some_and(|value| value == "close");
            if !self.kept || is_over || shared.stop.load(Ordering::SeqCst) {
                return None;
            }
        }
    }
}
