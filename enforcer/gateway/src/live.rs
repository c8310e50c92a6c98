//! A worker's open connections, so that some can be ended at once: see [`super::Revoker`].

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    clock,
    hold::Rests,
    identity::api_key::KeyRing,
    proof::Proof,
    proxy_protocol::Whose,
    revocation::Table,
    revoker::{About, Revocation},
};
use enforcer_model::address::client_prefix;
use enforcer_model::flow::{Flow, Identity, Whom};

/// Connections that are looked out for at once when there is no room, since each look goes through all of them.
const CANDIDATES: usize = 32;
/// How long is not looked again after there was none.
const AGAIN: Duration = Duration::from_millis(50);

/// The open connections of a worker; bounded as they are.
#[derive(Debug, Default)]
pub(super) struct Live {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Mark>>>,
    /// Connections that may be given up for others, longest idle first. At most [`CANDIDATES`].
    candidates: RefCell<VecDeque<u64>>,
    /// When there were none.
    none_since: Cell<Option<Instant>>,
}

/// An open connection, and the end that it may be brought to.
#[derive(Debug)]
pub(super) struct Mark {
    flow: Flow,
    whose: Cell<Whose>,
    identity: RefCell<Option<Identity>>,
    proof: OnceCell<Proof>,
    revoked: Cell<bool>,
    lapsed: Cell<bool>,
    /// What is under way on it.
    busy: Cell<usize>,
    /// Since when nothing is.
    idle_since: Cell<Instant>,
    /// The connection's task, once it listens. There is but one, on the same thread as whoever tells it something.
    task: RefCell<Option<Waker>>,
    /// What it and its requests rest on.
    pub(super) rests: Rests,
}

/// A connection among those that are open, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    live: Rc<Live>,
    number: u64,
    pub(super) mark: Rc<Mark>,
}

impl Live {
    /// Enters a connection.
    pub(super) fn enter(self: &Rc<Self>, flow: Flow) -> Seat {
        let number = self.next.replace(self.next.get() + 1);
        let mark = Rc::new(Mark {
            flow,
            whose: Cell::new(Whose::Peer(flow.peer)),
            identity: RefCell::default(),
            proof: OnceCell::new(),
            revoked: Cell::new(false),
            lapsed: Cell::new(false),
            busy: Cell::new(0),
            idle_since: Cell::new(clock::now()),
            task: RefCell::default(),
            rests: Rests::default(),
        });
        self.open.borrow_mut().insert(number, Rc::clone(&mark));
        Seat {
            live: Rc::clone(self),
            number,
            mark,
        }
    }

    /// Ends the connection that has been idle for longest of those behind which nobody has proved who they are. Whether
    /// there was one.
    pub(super) fn give_up_idle(&self) -> bool {
        if self
            .none_since
            .get()
            .is_some_and(|since| clock::now() < since + AGAIN)
        {
            return false;
        }
        let open = self.open.borrow();
        let mut candidates = self.candidates.borrow_mut();
        loop {
            while let Some(number) = candidates.pop_front() {
                if let Some(mark) = open.get(&number).filter(|mark| mark.may_be_given_up()) {
                    return mark.revoke();
                }
            }
            let mut idle: Vec<(Instant, u64)> = open
                .iter()
                .filter(|(_, mark)| mark.may_be_given_up())
                .map(|(number, mark)| (mark.idle_since.get(), *number))
                .collect();
            if idle.is_empty() {
                self.none_since.set(Some(clock::now()));
                return false;
            }
            if idle.len() > CANDIDATES {
                idle.select_nth_unstable(CANDIDATES - 1);
                idle.truncate(CANDIDATES);
            }
            idle.sort_unstable();
            candidates.extend(idle.into_iter().map(|(_, number)| number));
        }
    }

    /// Shows each open connection.
    pub(super) fn each(&self, show: impl FnMut(&Rc<Mark>)) {
        self.open.borrow().values().for_each(show);
    }

    /// Ends what a revocation is about. `table`: the proofs that are revoked.
    pub(super) fn end(&self, revocation: Revocation, table: &Table) -> usize {
        let flows = match &revocation.about {
            About::Whom(whom) => self.end_those(|mark| mark.is(whom)),
            About::Revoked => self.end_revoked(table),
            About::Clients(clients) => self.end_those(|mark| {
                let ends = [mark.flow.peer.ip(), mark.whose.get().address().ip()];
                ends.iter().any(|&end| clients.contains(&client_prefix(end)))
            }),
        };
        let count = flows.len();
        // Who asked may have stopped waiting.
        revocation.ended.send(flows).unwrap_or_default();
        count
    }
}

impl Live {
    /// Ends the connections that rest on one of the proofs of `table`.
    pub(super) fn end_revoked(&self, table: &Table) -> Vec<Flow> {
        if table.is_empty() {
            return Vec::new();
        }
        let now = SystemTime::now();
        self.end_those(|mark| mark.rests.are_revoked(table, now))
    }

    /// Ends the connections that rest on an API key that is no longer among `keys`.
    pub(super) fn end_without_key(&self, keys: &KeyRing) -> Vec<Flow> {
        self.end_those(|mark| mark.rests.have_lost_key(keys))
    }

    fn end_those(&self, meant: impl Fn(&Mark) -> bool) -> Vec<Flow> {
        let open = self.open.borrow();
        let those = open.values().filter(|mark| !mark.revoked.get() && meant(mark));
        those
            .map(|mark| {
                mark.revoke();
                mark.flow
            })
            .collect()
    }
}

impl Mark {
    /// Says whose connection it is, as a load balancer has said.
    pub(super) fn belongs_to(&self, whose: Whose) {
        self.whose.set(whose);
    }

    /// Whether the connection is one of those that are meant: by its flow, or by the client that was named.
    fn is(&self, whom: &Whom) -> bool {
        let whose = self.whose.get();
        if let Whom::Named { prefix, except } = whom {
            let is_meant = |client: IpAddr| {
                prefix.contains(&client) && !except.iter().any(|spared| spared.contains(&client))
            };
            return whose.named().is_some_and(|client| is_meant(client.ip()));
        }
        let identity = self.identity.borrow();
        let named = Flow {
            peer: whose.address(),
            ..self.flow
        };
        [self.flow, named]
            .iter()
            .any(|flow| whom.is(flow, identity.as_ref()))
    }

    /// Says who is behind the connection.
    pub(super) fn identify(&self, identity: &Identity) {
        *self.identity.borrow_mut() = Some(identity.clone());
    }

    /// Says by which certificate. Only the first is taken: there is no other.
    pub(super) fn prove(&self, proof: Proof) {
        self.proof.get_or_init(|| proof);
    }

    /// The client's certificate, if it has shown one.
    pub(super) fn proof(&self) -> Option<&Proof> {
        self.proof.get()
    }

    /// Has the connection end by a reset. Whether it is for the first time.
    pub(super) fn revoke(&self) -> bool {
        let is_first = !self.revoked.replace(true);
        self.wake();
        is_first
    }

    /// Something is under way on it, until [`Self::ended`].
    pub(super) fn begun(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    /// What has [`Self::begun`] is over.
    pub(super) fn ended(&self) {
        self.busy.set(self.busy.get() - 1);
        self.idle_since.set(clock::now());
    }

    /// Whether others may have its place: nothing is under way, and nobody has proved who they are.
    fn may_be_given_up(&self) -> bool {
        self.busy.get() == 0 && !self.revoked.get() && self.identity.borrow().is_none()
    }

    /// Whether [`Self::revoke`] has been said.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    /// Whose connection it is for the kernel.
    pub(super) fn peer(&self) -> SocketAddr {
        self.flow.peer
    }

    /// Has the connection end after what is under way: its certificate has expired.
    pub(super) fn lapse(&self) {
        if !self.lapsed.replace(true) {
            self.wake();
        }
    }

    /// Whether [`Self::lapse`] has been said.
    pub(super) fn has_lapsed(&self) -> bool {
        self.lapsed.get()
    }

    /// Waits until the certificate has expired.
    pub(super) async fn lapses(&self) {
        self.until(|| self.lapsed.get()).await;
    }

    /// Waits until the connection is revoked.
    pub(super) async fn revoked(&self) {
        self.until(|| self.revoked.get()).await;
    }

    /// Has the connection's task look at what it is told.
    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// From now on the task of `context`, which is the connection's, is woken.
    pub(super) fn listen(&self, context: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }

    async fn until(&self, told: impl Fn() -> bool) {
        poll_fn(|context| {
            if told() {
                return Poll::Ready(());
            }
            self.listen(context);
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.live.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    fn flow(peer: &str) -> Flow {
        Flow {
            peer: peer.parse().unwrap(),
            local: "203.0.113.9:443".parse().unwrap(),
        }
    }

    fn behind(proxy: &str, client: Option<&str>) -> Whose {
        Whose::Behind {
            proxy: proxy.parse().unwrap(),
            client: client.map(|client| client.parse().unwrap()),
        }
    }

    fn end(live: &Live, whom: Whom) -> Vec<Flow> {
        let (ended, mut answer) = oneshot::channel();
        let about = About::Whom(whom);
        live.end(Revocation { about, ended }, &Table::default());
        answer.try_recv().unwrap()
    }

    #[test]
    fn only_those_that_are_meant_end_and_each_once() {
        let live = Rc::new(Live::default());
        let [first, second] = ["192.0.2.7:1", "192.0.2.7:2"].map(|peer| live.enter(flow(peer)));
        first.mark.identify(&Identity::Certificate("a".into()));
        second.mark.identify(&Identity::Certificate("b".into()));
        assert_eq!(end(&live, Whom::Identity("certificate c".into())), []);
        assert_eq!(
            end(&live, Whom::Identity("certificate a".into())),
            [first.mark.flow]
        );
        assert!(first.mark.revoked.get() && !second.mark.revoked.get());
        assert_eq!(
            end(&live, Whom::Source("192.0.2.0/24".parse().unwrap())),
            [second.mark.flow],
            "the first has ended already"
        );
        drop(first);
        drop(second);
        let handed_on = live.enter(flow("192.0.2.7:3"));
        handed_on
            .mark
            .belongs_to(behind("192.0.2.7:3", Some("198.51.100.1:4")));
        assert_eq!(
            end(&live, Whom::Source("198.51.100.0/24".parse().unwrap())),
            [handed_on.mark.flow],
            "found by the client, and told by what the kernel sees"
        );
        drop(handed_on);
        let prefix = "198.51.100.0/24".parse().unwrap();
        let direct = live.enter(flow("198.51.100.1:5"));
        let handed_on = live.enter(flow("192.0.2.7:3"));
        handed_on
            .mark
            .belongs_to(behind("192.0.2.7:3", Some("198.51.100.1:4")));
        assert_eq!(end(&live, named_in(prefix)), [handed_on.mark.flow]);
        drop((handed_on, direct));
        assert!(live.open.borrow().is_empty());
    }

    fn named_in(prefix: ipnet::IpNet) -> Whom {
        let except = Arc::from([]);
        Whom::Named { prefix, except }
    }

    #[test]
    fn clients_that_are_spared_stay() {
        let live = Rc::new(Live::default());
        let proxy = "192.0.2.7:3";
        let named = live.enter(flow(proxy));
        named.mark.belongs_to(behind(proxy, Some("10.1.0.1:4")));
        let whom = |except: &str| Whom::Named {
            prefix: "10.0.0.0/8".parse().unwrap(),
            except: Arc::from([except.parse().unwrap()]),
        };
        assert_eq!(end(&live, whom("10.1.0.0/16")), []);
        assert_eq!(end(&live, whom("10.2.0.0/16")), [named.mark.flow]);
    }

    #[test]
    fn m6_only_clients_that_a_load_balancer_names_are_found_by_their_names() {
        let live = Rc::new(Live::default());
        let proxy = "192.0.2.7:3";
        let prefix = "192.0.2.7/32".parse().unwrap();
        let unnamed = live.enter(flow(proxy));
        unnamed.mark.belongs_to(behind(proxy, None));
        assert_eq!(end(&live, named_in(prefix)), []);
        assert_eq!(end(&live, Whom::Source(prefix)), [unnamed.mark.flow]);
        // It names a client at its own address.
        let named = live.enter(flow(proxy));
        named.mark.belongs_to(behind(proxy, Some(proxy)));
        assert_eq!(end(&live, named_in(prefix)), [named.mark.flow]);
    }

    #[test]
    fn m7_the_longest_idle_stranger_goes_first() {
        let live = Rc::new(Live::default());
        let seats: Vec<Seat> = (1..=100)
            .map(|port| {
                let seat = live.enter(flow(&format!("192.0.2.7:{port}")));
                let since = clock::now() + Duration::from_millis(port);
                seat.mark.idle_since.set(since);
                seat
            })
            .collect();
        seats[0].mark.identify(&Identity::Certificate("a".into()));
        seats[1].mark.begun();
        for (number, gone) in seats.iter().enumerate().skip(2) {
            assert!(live.give_up_idle());
            assert!(gone.mark.is_revoked(), "{number}");
            assert!(live.candidates.borrow().len() < CANDIDATES);
        }
        assert!(!live.give_up_idle(), "one is verified, one is busy");
        assert!(!seats[0].mark.is_revoked() && !seats[1].mark.is_revoked());
    }

    #[test]
    fn whoever_listens_is_woken_by_what_it_is_told() {
        #[derive(Default)]
        struct Woken(AtomicUsize);

        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let live = Rc::new(Live::default());
        let seat = live.enter(flow("192.0.2.7:1"));
        let mark = &seat.mark;
        // Nobody listens yet.
        mark.wake();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let count = || woken.0.load(Ordering::Relaxed);
        let mut revoked = pin!(mark.revoked());
        let mut lapses = pin!(mark.lapses());
        assert!(revoked.as_mut().poll(&mut context).is_pending());
        assert!(lapses.as_mut().poll(&mut context).is_pending());
        mark.lapse();
        assert_eq!(count(), 1);
        mark.lapse();
        assert_eq!(count(), 1, "it knows already");
        assert!(revoked.as_mut().poll(&mut context).is_pending());
        assert!(lapses.as_mut().poll(&mut context).is_ready() && mark.has_lapsed());
        assert!(mark.revoke() && !mark.revoke());
        assert!(count() > 1);
        assert!(revoked.as_mut().poll(&mut context).is_ready());
        let late = pin!(mark.revoked());
        assert!(late.poll(&mut context).is_ready(), "it stays so");
    }
}
