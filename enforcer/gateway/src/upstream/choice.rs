//! Which endpoint a request goes to, and on which connection.

use std::{net::IpAddr, rc::Rc};

use http::Request;
use tokio::time::Instant;

use super::{
    Bound, UpstreamError, balance,
    consistent::{again, hash},
    gradient::Range,
    pool::{LocalEndpoint, Seat},
    send::{Sender, Site, Tries, Upstream},
    service::Held,
    view::{View, WHOLE},
};
use crate::body::RequestBody;
use enforcer_model::{Balance, HashKey, Service};

/// The outcome of looking for an endpoint.
enum Choice {
    Endpoint(usize),
    /// All have as many connections as they may.
    Full,
    None,
}

impl Upstream {
    /// Whether there is an endpoint to send the request to again, after `index`: one that has not failed it
    /// and has room. Where there is only the same, the same.
    pub(super) fn is_elsewhere(&self, tries: &Tries, index: usize) -> bool {
        let view = self.view();
        let untried = |at: usize| at != index && !tries.failed.contains(&at);
        let mut others = view
            .members()
            .iter()
            .filter(|member| untried(member.index))
            .peekable();
        others.peek().is_none() || others.any(|member| self.has_room(member.index))
    }

    pub(super) fn all_failed(&self, tries: &Tries) -> bool {
        let view = self.view();
        view.members()
            .iter()
            .all(|member| tries.failed.contains(&member.index))
    }

    /// An endpoint and a connection there, or the right to make one. Waits for one if all are in use.
    pub(super) async fn seat(&self, tries: &Tries) -> Result<(usize, Seat), UpstreamError> {
        let limits = &self.service.limits;
        let mut waiting: Option<Held> = None;
        loop {
            // Those that wait already are served first.
            let choice = match waiting.is_none() && self.local.has_waiting() {
                true => Choice::Full,
                false => self.choose(tries),
            };
            match choice {
                Choice::Endpoint(index) => {
                    let limit = self.connections();
                    return Ok((index, self.endpoints[index].seat(limit, tries.fresh)));
                }
                Choice::None => return Err(UpstreamError::NoEndpoint),
                Choice::Full if limits.pending == 0 => return Err(self.local.saturated(Bound::Connections)),
                Choice::Full => {}
            }
            if waiting.is_none() {
                waiting = Some(self.local.hold(Bound::Pending, self.share(limits.pending))?);
            }
            // On the heap, as all that is rare and takes a place in each request's future.
            Box::pin(self.local.freed()).await;
        }
    }

    fn choose(&self, tries: &Tries) -> Choice {
        let view = self.view();
        if view.is_empty() {
            return Choice::None;
        }
        let lot = match tries.key {
            Some(key) => again(key, u64::MAX) % WHOLE,
            None => fastrand::u64(0..WHOLE),
        };
        let (part, near) = view.part(lot);
        let untried = |index: usize| !tries.failed.contains(&index) && self.has_room(index);
        if let (Some(table), Some(key)) = (&self.table, tries.key) {
            let admitted = |index| view.admits(index, near, key) && untried(index);
            if let Some(index) = table.find(key, self.endpoints.len(), admitted) {
                return Choice::Endpoint(index);
            }
        }
        let load = |index: usize| self.endpoints[index].under_way();
        let pick = |members, usable: &dyn Fn(usize) -> bool| {
            let load = |index| usable(index).then(|| load(index));
            balance::choose(&self.service.balance, members, &self.rounds, load, |below| {
                fastrand::u64(0..below)
            })
        };
        let another = |index: usize| tries.failed.last() != Some(&index) && self.has_room(index);
        // Where a part has no room, the other helps out; where all have failed, one is tried once more, and not the
        // last of them: the others have had longer to come back.
        pick(part, &untried)
            .or_else(|| pick(view.members(), &untried))
            .or_else(|| pick(view.members(), &another))
            .or_else(|| {
                let has_room = |index: usize| self.has_room(index);
                pick(view.members(), &has_room)
            })
            .map_or(Choice::Full, Choice::Endpoint)
    }

    fn view(&self) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        let epoch = self
            .endpoints
            .first()
            .map_or(0, |first| first.shared.board().epoch());
        if !view.is_current(epoch) {
            *view = Rc::new(self::view(&self.service, &self.endpoints, &self.site));
        }
        Rc::clone(&view)
    }

    fn has_room(&self, index: usize) -> bool {
        self.endpoints[index].has_room(self.connections())
    }

    fn connections(&self) -> usize {
        usize::try_from(self.share(self.service.limits.connections.get())).unwrap_or(usize::MAX)
    }

    /// This worker's share of a bound.
    pub(super) fn share(&self, bound: u32) -> u32 {
        bound.div_ceil(u32::try_from(self.site.workers.max(1)).unwrap_or(u32::MAX))
    }

    /// Within what the number of requests is adapted, if it is.
    pub(super) fn adapts(&self) -> Option<Range> {
        let limits = &self.service.limits;
        limits.adaptive_floor.map(|floor| Range {
            floor: self.share(floor.get()),
            ceiling: self.share(limits.requests.get()),
        })
    }

    /// A place among the requests under way, of which those of the request's priority may fill `room` percent.
    pub(super) fn place(&self, room: u8) -> Result<Held, UpstreamError> {
        let ceiling = self.share(self.service.limits.requests.get());
        let adapted = self
            .adapts()
            .map(|range| self.local.gradient.limit(range, Instant::now()))
            .filter(|adapted| *adapted < ceiling);
        let (bound, most) = adapted.map_or((Bound::Requests, ceiling), |adapted| (Bound::Adaptive, adapted));
        let most = u64::from(most) * u64::from(room) / 100;
        // Everybody may be the only one.
        self.local
            .hold(bound, u32::try_from(most).unwrap_or(u32::MAX).max(1))
    }

    /// Tells the limit that is adapted.
    pub(crate) fn tell_limit(&self) {
        let limit = self
            .adapts()
            .map_or(0, |range| self.local.gradient.limit(range, Instant::now()));
        self.local.cells.adapted(limit);
    }

    /// What a connection of `source` is hashed by, of which nothing else is known.
    pub(super) fn key_of(&self, source: IpAddr) -> Option<u64> {
        let by_sources = matches!(
            &self.service.balance,
            Balance::RingHash(HashKey::Source) | Balance::Maglev(HashKey::Source)
        );
        by_sources.then(|| by_source(source))
    }

    /// What the request is hashed by, if it has that.
    pub(super) fn key(&self, request: &Request<RequestBody>, sender: Sender<'_>) -> Option<u64> {
        let (Balance::RingHash(key) | Balance::Maglev(key)) = &self.service.balance else {
            return None;
        };
        let fields = request.headers();
        Some(match key {
            HashKey::Source => by_source(sender.address),
            HashKey::Path => hash(&[request.uri().path().as_bytes()]),
            HashKey::TokenSubject => {
                let (issuer, subject) = sender.subject?;
                hash(&[issuer.as_bytes(), subject.as_bytes()])
            }
            HashKey::Header(name) => hash(&[fields.get(name)?.as_bytes()]),
            HashKey::Cookie(name) => {
                let cookies = fields.get_all(http::header::COOKIE).iter();
                let pairs = cookies.flat_map(|cookies| cookies.as_bytes().split(|byte| *byte == b';'));
                hash(&[value_of(pairs.map(<[u8]>::trim_ascii), name)?])
            }
            HashKey::Query(name) => {
                let query = request.uri().query()?.as_bytes();
                hash(&[value_of(query.split(|byte| *byte == b'&'), name)?])
            }
        })
    }
}

pub(super) fn view(service: &Service, endpoints: &[Rc<LocalEndpoint>], site: &Site) -> View {
    let shared: Vec<_> = endpoints.iter().map(|endpoint| &endpoint.shared).collect();
    View::new(service, &shared, site.zone.as_deref(), Instant::now())
}

fn by_source(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(address) => hash(&[&address.octets()]),
        IpAddr::V6(address) => hash(&[&address.octets()]),
    }
}

/// The value of `name` in pairs with `=` between.
fn value_of<'a>(mut pairs: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}
