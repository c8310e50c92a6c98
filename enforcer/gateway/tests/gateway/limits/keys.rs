//! By what limits are keyed, what they count, and who has them together.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use enforcer_common::limiter::Algorithm;
use enforcer_gateway::limit::{KeyParts, Outcome, RequestLimiters, headers::Told};
use enforcer_model::{Budget, Counted, RequestKey, RequestLimit, Tier};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits::fixture::{ALGORITHMS, NOW, admitted, bind, from, limit, params, route, service};

const MINUTE: Duration = Duration::from_secs(60);
const TEAM: HeaderName = HeaderName::from_static("x-team");

fn fields(teams: &[&'static str]) -> HeaderMap {
    let values = teams.iter().map(|team| (TEAM, HeaderValue::from_static(team)));
    let mut fields = HeaderMap::new();
    for (name, value) in values {
        fields.append(name, value);
    }
    fields
}

#[test]
fn a_prefix_shares_a_limit() {
    let per = [RequestKey::Source { ipv4: 24, ipv6: 48 }];
    let limits = bind(&[limit(Algorithm::TokenBucket, 3, MINUTE, &per)]);
    for (first, second, other) in [
        ("192.0.2.1", "192.0.2.255", "192.0.3.1"),
        ("2001:db8:1::1", "2001:db8:1:ffff::1", "2001:db8:2::1"),
    ] {
        assert_eq!(admitted(&limits, &from(first), NOW, 2), 2);
        assert_eq!(admitted(&limits, &from(second), NOW, 2), 1, "{second}");
        assert_eq!(admitted(&limits, &from(other), NOW, 9), 3, "{other}");
    }
}

#[test]
fn the_shortest_prefix_is_everybody_and_the_longest_an_address() {
    let one = |ipv4, ipv6| {
        let per = [RequestKey::Source { ipv4, ipv6 }];
        bind(&[limit(Algorithm::TokenBucket, 1, MINUTE, &per)])
    };
    let half = one(1, 1);
    assert_eq!(admitted(&half, &from("10.0.0.1"), NOW, 1), 1);
    assert_eq!(admitted(&half, &from("127.0.0.1"), NOW, 1), 0);
    assert_eq!(admitted(&half, &from("128.0.0.1"), NOW, 1), 1);
    let whole = one(32, 128);
    assert_eq!(admitted(&whole, &from("2001:db8::1"), NOW, 1), 1);
    assert_eq!(admitted(&whole, &from("2001:db8::2"), NOW, 1), 1);
}

#[test]
fn a_header_is_a_key_and_without_it_the_source_is() {
    let limits = bind(&[limit(
        Algorithm::TokenBucket,
        2,
        MINUTE,
        &[RequestKey::Header(TEAM)],
    )]);
    let (red, blue, both, none) = (
        fields(&["red"]),
        fields(&["blue"]),
        fields(&["red", "blue"]),
        fields(&[]),
    );
    let keys = |source, fields| from(source).with_fields(fields);
    assert_eq!(admitted(&limits, &keys("192.0.2.1", &red), NOW, 1), 1);
    assert_eq!(
        admitted(&limits, &keys("192.0.2.2", &red), NOW, 9),
        1,
        "of one team"
    );
    assert_eq!(admitted(&limits, &keys("192.0.2.2", &blue), NOW, 9), 2);
    assert_eq!(
        admitted(&limits, &keys("192.0.2.2", &both), NOW, 9),
        2,
        "all values count"
    );
    assert_eq!(admitted(&limits, &keys("192.0.2.3", &none), NOW, 9), 2);
    assert_eq!(
        admitted(&limits, &keys("192.0.2.4", &none), NOW, 9),
        2,
        "not one for all"
    );
}

#[test]
fn a_request_may_cost_more_than_one() {
    for algorithm in ALGORITHMS {
        let dear = RequestLimit {
            counted: Counted::Requests(NonZeroU64::new(30).unwrap()),
            ..limit(algorithm, 100, MINUTE, &[RequestKey::SOURCE])
        };
        let limits = bind(&[dear]);
        assert_eq!(admitted(&limits, &from("192.0.2.1"), NOW, 9), 3, "{algorithm:?}");
    }
}

#[test]
fn bytes_of_responses_are_owed_until_they_are_made_up_for() {
    let start = Instant::now();
    for algorithm in ALGORITHMS {
        for key in [RequestKey::SOURCE, RequestKey::Rule] {
            let bytes = RequestLimit {
                counted: Counted::ResponseBytes,
                ..limit(algorithm, 1 << 20, MINUTE, std::slice::from_ref(&key))
            };
            let limits = bind(&[bytes]);
            let client = from("192.0.2.1");
            let now = || u64::try_from(start.elapsed().as_nanos()).unwrap();
            assert_eq!(admitted(&limits, &client, now(), 3), 3, "none has sent anything");
            let mut meter = limits.meter(&client, start).unwrap();
            meter.sends(1 << 19);
            assert_eq!(admitted(&limits, &client, now(), 1), 1, "half of it is left");
            meter.sends((1 << 19) - 1000);
            meter.sends(2000);
            drop(meter);
            assert_eq!(
                admitted(&limits, &client, now(), 1),
                0,
                "{algorithm:?} by {key:?}"
            );
        }
    }
    assert!(bind(&[]).meter(&from("192.0.2.1"), start).is_none());
}

fn tiered() -> RequestLimit {
    let tier = |name: &str, amount| Tier {
        name: name.into(),
        budget: Budget {
            rate: limit(Algorithm::TokenBucket, amount, MINUTE, &[]).budget.rate,
            burst: NonZeroU64::new(amount).unwrap(),
        },
        params: params(Algorithm::TokenBucket, amount, MINUTE),
    };
    RequestLimit {
        tiers: vec![tier("gold", 10), tier("silver", 5)],
        ..limit(Algorithm::TokenBucket, 2, MINUTE, &[RequestKey::SOURCE])
    }
}

#[test]
fn tiers_have_budgets_of_their_own() {
    let limits = bind(&[tiered()]);
    let of = |tier| KeyParts {
        tier,
        ..from("192.0.2.1")
    };
    for (tier, amount, told) in [
        (None, 2, "\"per-client\";q=2;w=60"),
        (Some("gold"), 10, "\"per-client\";q=10;w=60"),
        (Some("silver"), 5, "\"per-client\";q=5;w=60"),
    ] {
        assert_eq!(admitted(&limits, &of(tier), NOW, 99), amount, "{tier:?}");
        let mut fields = HeaderMap::new();
        Told::new(&limits, tier, limits.check(&of(tier), NOW)).write(&mut fields);
        assert_eq!(fields["ratelimit-policy"], told);
    }
    assert_eq!(
        admitted(&limits, &of(Some("lead")), NOW, 9),
        0,
        "as those of no tier, who have used theirs up"
    );
}

#[test]
fn a_tier_can_be_a_key() {
    let limits = bind(&[limit(Algorithm::TokenBucket, 2, MINUTE, &[RequestKey::Tier])]);
    let of = |tier, source| KeyParts { tier, ..from(source) };
    assert_eq!(admitted(&limits, &of(Some("gold"), "192.0.2.1"), NOW, 9), 2);
    assert_eq!(admitted(&limits, &of(Some("gold"), "192.0.2.2"), NOW, 9), 0);
    assert_eq!(admitted(&limits, &of(None, "192.0.2.1"), NOW, 9), 2);
}

#[test]
fn rules_of_a_route_and_of_a_service_share_what_they_say_alike() {
    for (key, elsewhere) in [(RequestKey::Rule, 3), (RequestKey::Service, 0)] {
        let limiters = RequestLimiters::new(1 << 10);
        let same = limit(Algorithm::TokenBucket, 3, MINUTE, std::slice::from_ref(&key));
        let bind = |route, service| limiters.bind(&route, Some(&service), std::slice::from_ref(&same));
        let (first, second) = (bind(route(), service()), bind(route(), service()));
        assert_eq!(admitted(&first, &from("192.0.2.1"), NOW, 1), 1);
        assert_eq!(
            admitted(&second, &from("192.0.2.2"), NOW, 9),
            2,
            "{key:?}: one limit of the route"
        );
        let other_route = bind("carts".parse().unwrap(), service());
        assert_eq!(
            admitted(&other_route, &from("192.0.2.2"), NOW, 9),
            elsewhere,
            "{key:?}"
        );
        let other_service = bind("carts".parse().unwrap(), "stock".parse().unwrap());
        assert_eq!(
            admitted(&other_service, &from("192.0.2.2"), NOW, 9),
            if elsewhere == 0 { 3 } else { 0 }
        );
    }
}

#[test]
fn the_unit_of_bytes_is_told() {
    let bytes = RequestLimit {
        counted: Counted::ResponseBytes,
        ..limit(Algorithm::FixedWindow, 1000, MINUTE, &[RequestKey::SOURCE])
    };
    let limits = bind(&[bytes]);
    let outcome = limits.check(&from("192.0.2.1"), NOW);
    assert!(matches!(outcome, Outcome::Admitted { .. }));
    let mut fields = HeaderMap::new();
    Told::new(&limits, None, outcome).write(&mut fields);
    assert_eq!(
        fields["ratelimit-policy"],
        "\"per-client\";q=1000;w=60;qu=\"content-bytes\""
    );
}
