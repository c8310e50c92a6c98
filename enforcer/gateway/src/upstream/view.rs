//! Which endpoints of a service one worker may choose from, and how much of each: made anew when an
//! endpoint's state changes, and while one warms up.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{balance::Member, consistent::again, endpoint::SharedEndpoint};
use enforcer_model::Service;

/// How often the weights of endpoints that warm up are looked at.
const WARMING: Duration = Duration::from_millis(100);
/// Shares are counted in these.
pub(super) const WHOLE: u64 = 10_000;
/// A zone of which a part cannot be used still gets all of its requests, as long as what is left is more
/// than this can make up for (as Envoy's over-provisioning factor does): 1.4.
const OVERPROVISIONED: u64 = 14_000;

/// What may be chosen.
#[derive(Debug)]
pub(super) struct View {
    /// The board's when this was made.
    epoch: u64,
    /// When it is to be made anew all the same.
    until: Option<Instant>,
    /// Those of the node's zone, or all if there is none of it; then the others.
    members: Vec<Member>,
    /// How many of them are in the first part.
    near: usize,
    /// How many of [`WHOLE`] requests go to the first part.
    near_share: u64,
    /// By endpoint: how warm it is in thousandths, 0 if it may not be chosen.
    warmth: Vec<u32>,
    is_near: Vec<bool>,
}

impl View {
    /// What may be chosen now of `service`'s `endpoints`, on a node in `zone`.
    pub(super) fn new(
        service: &Service,
        endpoints: &[&Arc<SharedEndpoint>],
        zone: Option<&str>,
        now: Instant,
    ) -> Self {
        let epoch = endpoints.first().map_or(0, |first| first.board().epoch());
        let usable = endpoints.iter().filter(|endpoint| endpoint.is_usable()).count();
        let panic = usable * 100 < endpoints.len() * usize::from(service.panic_percent);
        let warmth: Vec<u32> = endpoints
            .iter()
            .map(|endpoint| match (panic, endpoint.is_usable()) {
                (true, _) => 1000,
                (false, true) => endpoint.warmth(service.slow_start),
                (false, false) => 0,
            })
            .collect();
        let weights = || {
            service
                .endpoints
                .iter()
                .map(|endpoint| u32::from(endpoint.weight.get()))
        };
        let is_near: Vec<bool> = service
            .endpoints
            .iter()
            .map(|endpoint| zone.is_some() && endpoint.zone.as_deref() == zone)
            .collect();
        let part = |near: bool| {
            let of_part = weights().zip(&warmth).zip(&is_near).enumerate();
            of_part.filter_map(move |(index, ((weight, warmth), is_near))| {
                let weight = weight * warmth;
                (*is_near == near && weight > 0).then_some(Member { index, weight })
            })
        };
        let mut members: Vec<Member> = part(true).collect();
        let near = members.len();
        members.extend(part(false));
        let configured: u64 = weights()
            .zip(&is_near)
            .filter(|(_, near)| **near)
            .map(|(weight, _)| u64::from(weight) * 1000)
            .sum();
        let left: u64 = members[..near]
            .iter()
            .map(|member| u64::from(member.weight))
            .sum();
        let near_share = match (near, members.len() - near) {
            (0, _) => 0,
            (_, 0) => WHOLE,
            _ => (left * OVERPROVISIONED / configured.max(1)).min(WHOLE),
        };
        let is_warming = warmth.iter().any(|&warmth| warmth > 0 && warmth < 1000);
        Self {
            epoch,
            until: is_warming.then(|| now + WARMING),
            members,
            near,
            near_share,
            warmth,
            is_near,
        }
    }

    /// Whether it still holds.
    #[must_use]
    pub(super) fn is_current(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Whether no endpoint may be chosen.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All that may be chosen.
    #[must_use]
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The part that a request goes to whose lot is `lot`, below [`WHOLE`], and whether it is the near one.
    #[must_use]
    pub(super) fn part(&self, lot: u64) -> (&[Member], bool) {
        let (near, far) = self.members.split_at(self.near);
        if lot < self.near_share {
            (near, true)
        } else {
            (far, false)
        }
    }

    /// Whether a key that leads to the endpoint stays there: of an endpoint that warms up only some do.
    #[must_use]
    pub(super) fn admits(&self, index: usize, near: bool, hash: u64) -> bool {
        let warmth = u64::from(self.warmth[index]);
        self.is_near[index] == near && again(hash, index as u64) % 1000 < warmth
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use enforcer_model::{Balance, Endpoint, Origin, Protocol, Retries, UpstreamLimits, UpstreamTls};

    fn service(zones: &[&str]) -> Service {
        let endpoint = |(index, zone): (usize, &&str)| Endpoint {
            authority: format!("10.0.0.{index}:80").parse().unwrap(),
            https: false,
            weight: NonZeroU16::MIN,
            zone: (!zone.is_empty()).then(|| (*zone).into()),
        };
        Service {
            name: "s".parse().unwrap(),
            origin: Origin {
                file: "s.yaml".into(),
                line: 1,
            },
            endpoints: zones.iter().enumerate().map(endpoint).collect(),
            balance: Balance::default(),
            health: None,
            connect_timeout: Duration::from_secs(1),
            tls: UpstreamTls::default(),
            limits: UpstreamLimits::default(),
            retries: Retries::default(),
            outliers: None,
            slow_start: Some(Duration::from_secs(3600)),
            panic_percent: 0,
            protocol: Protocol::Http1,
        }
    }

    fn shared(service: &Service) -> Vec<Arc<SharedEndpoint>> {
        let board = Arc::default();
        let endpoint = |endpoint: &Endpoint| {
            SharedEndpoint::renewed(service, &endpoint.authority, None, None, false, &board)
        };
        service.endpoints.iter().map(endpoint).collect()
    }

    fn view(service: &Service, endpoints: &[Arc<SharedEndpoint>], zone: &str) -> View {
        let endpoints: Vec<_> = endpoints.iter().collect();
        View::new(service, &endpoints, Some(zone), Instant::now())
    }

    #[test]
    fn requests_stay_in_the_zone_while_it_can_take_them() {
        let service = service(&["a", "a", "a", "a", "b", ""]);
        let endpoints = shared(&service);
        for (gone, share) in [(0, 10_000), (1, 10_000), (2, 7000), (3, 3500), (4, 0)] {
            for endpoint in &endpoints[..gone] {
                endpoint.set_ejected(true);
            }
            let view = view(&service, &endpoints, "a");
            assert_eq!((view.near_share, view.near), (share, 4 - gone), "{gone} are gone");
            assert_eq!(
                view.part(9999).0.len(),
                if share == 10_000 { 4 - gone } else { 2 }
            );
        }
        let view = view(&service, &endpoints, "elsewhere");
        assert_eq!((view.near_share, view.part(0).0.len()), (0, 2));
    }

    #[test]
    fn a_zone_without_others_gets_all() {
        let service = service(&["a", "a", "a"]);
        let endpoints = shared(&service);
        endpoints[0].set_ejected(true);
        endpoints[1].set_ejected(true);
        assert_eq!(view(&service, &endpoints, "a").near_share, WHOLE);
    }

    #[test]
    fn in_panic_all_are_used() {
        let mut service = service(&["", "", "", ""]);
        let endpoints = shared(&service);
        for endpoint in &endpoints[..3] {
            endpoint.set_healthy(false);
        }
        assert_eq!(view(&service, &endpoints, "a").members().len(), 1);
        service.panic_percent = 25;
        assert_eq!(
            view(&service, &endpoints, "a").members().len(),
            1,
            "a quarter is left"
        );
        service.panic_percent = 26;
        assert_eq!(view(&service, &endpoints, "a").members().len(), 4);
    }

    #[test]
    fn what_is_back_begins_with_little() {
        let service = service(&["", ""]);
        let endpoints = shared(&service);
        let before = view(&service, &endpoints, "a");
        endpoints[1].set_ejected(true);
        endpoints[1].set_ejected(false);
        assert!(!before.is_current(endpoints[0].board().epoch()));
        let view = view(&service, &endpoints, "a");
        let weights: Vec<u32> = view.members().iter().map(|member| member.weight).collect();
        assert_eq!(weights, [1000, 100]);
        assert!(view.until.is_some(), "it is looked at again");
        let stay = (0..10_000)
            .filter(|&key| view.admits(1, false, again(key, 5)))
            .count();
        assert!((800..1200).contains(&stay), "{stay} of 10000 keys go there");
    }
}
