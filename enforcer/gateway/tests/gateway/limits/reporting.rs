//! What clients are told.

use std::time::Duration;

use enforcer_common::limiter::Algorithm;
use enforcer_gateway::limit::{
    Outcome, RuleLimits,
    headers::{self, Told},
};
use enforcer_model::{RequestKey, RequestLimit};
use http::HeaderMap;
use serde_json::Value;

use crate::limits::fixture::{NOW, SECOND, admitted, bind, from, limit};

const MINUTE: Duration = Duration::from_secs(60);

fn told(limits: &RuleLimits, outcome: &Outcome) -> [Option<String>; 3] {
    let mut fields = HeaderMap::new();
    Told::new(limits, None, *outcome).write(&mut fields);
    ["ratelimit-policy", "ratelimit", "retry-after"]
        .map(|name| fields.get(name).map(|value| value.to_str().unwrap().to_owned()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn admitted_requests_learn_what_is_left() {
    let limits = bind(&[limit(Algorithm::FixedWindow, 100, MINUTE, &[RequestKey::SOURCE])]);
    let keys = from("192.0.2.1");
    assert_eq!(admitted(&limits, &keys, NOW, 49), 49);
    let outcome = limits.check(&keys, NOW + 30 * SECOND + 1);
    let expected = [
        some("\"per-client\";q=100;w=60"),
        some("\"per-client\";r=50;t=30"),
        None,
    ];
    assert_eq!(told(&limits, &outcome), expected);
}

#[test]
fn refused_requests_learn_when_to_come_again() {
    let limits = bind(&[limit(Algorithm::FixedWindow, 2, MINUTE, &[RequestKey::SOURCE])]);
    let keys = from("192.0.2.1");
    assert_eq!(admitted(&limits, &keys, NOW, 2), 2);
    let outcome = limits.check(&keys, NOW + 59 * SECOND + SECOND / 2);
    let expected = [
        some("\"per-client\";q=2;w=60"),
        some("\"per-client\";r=0;t=1"),
        some("1"),
    ];
    assert_eq!(told(&limits, &outcome), expected);
    let outcome = limits.check(&keys, NOW + SECOND / 2);
    let [_, _, retry] = told(&limits, &outcome);
    assert_eq!(retry, some("60"), "rounded up");
    let Outcome::Refused(refusal) = outcome else {
        panic!("the window is full")
    };
    let problem = headers::problem(&limits, &refusal);
    let body: Value = serde_json::from_slice(&problem.body()).unwrap();
    assert_eq!(body["violated-policies"][0], "per-client");
    assert_eq!(
        body["detail"],
        "The limit on requests is used up. Try again in 60 s."
    );
}

#[test]
fn the_tightest_of_several_limits_is_told() {
    let wide = limit(
        Algorithm::FixedWindow,
        100,
        Duration::from_millis(2500),
        &[RequestKey::Rule],
    );
    let odd = RequestLimit {
        name: "a\"b\\c\u{e4}".into(),
        ..wide
    };
    let limits = bind(&[
        odd,
        limit(Algorithm::FixedWindow, 9, MINUTE, &[RequestKey::SOURCE]),
    ]);
    let outcome = limits.check(&from("192.0.2.1"), NOW);
    let expected = [
        some(r#""a\"b\\c?";q=120;w=3, "per-client";q=9;w=60"#),
        some("\"per-client\";r=8;t=60"),
        None,
    ];
    assert_eq!(told(&limits, &outcome), expected);
}

#[test]
fn without_limits_nothing_is_told() {
    let limits = bind(&[]);
    let outcome = limits.check(&from("192.0.2.1"), NOW);
    assert_eq!(told(&limits, &outcome), [None, None, None]);
}
