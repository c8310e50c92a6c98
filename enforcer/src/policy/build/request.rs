//! Limits on requests.

use std::{num::NonZeroU64, time::Duration};

use super::{
    duration_within,
    limit::{Draft, Measure},
    require::Proofs,
};
use crate::policy::{
    leaf::Name,
    model::{Exceed, RequestKey, RequestLimit},
    raw,
    yaml::place::{Place, Unique, parsed},
};

pub(super) fn limit(
    raw: raw::RequestLimit,
    default_name: String,
    at: &Place<'_>,
    proofs: &Proofs,
) -> Option<RequestLimit> {
    let name = match raw.name {
        Some(text) => parsed(str::parse::<Name>)(text, &at.field("name")).map(|name| name.shared()),
        None => Some(default_name.into()),
    };
    let per = at.required("per", raw.per, |list, place| {
        if list.0.is_empty() && place.items().is_empty() {
            place.error("the key is empty: write `per: source`, or `per: rule` for one limit that all share");
        }
        let mut seen = Unique::new();
        Some(at.each("per", list.0, |(raw, at)| {
            let (key, rank) = key(raw);
            seen.claim(rank, &at, |_| {
                "this part of the key is named above already: write it once".to_owned()
            });
            check_key(key, proofs, &at);
            Some(key)
        }))
    });
    let rate = at.required("rate", raw.rate, |text, at| {
        Measure::Requests.rate(text.as_ref(), at)
    });
    let burst = at.optional("burst", raw.burst, |burst, at| Measure::Requests.burst(burst, at));
    let exceed = at.optional("exceed", raw.exceed, exceed);
    let draft = Draft {
        algorithm: raw.algorithm,
        rate,
        burst,
        // One period's amount: `100/m` lets 100 come at once.
        default_burst: |rate| -> NonZeroU64 { rate.amount() },
    };
    let (budget, params) = draft.build(at)?;
    Some(RequestLimit {
        name: name?,
        per: per?,
        budget,
        params,
        exceed: exceed.unwrap_or_default(),
    })
}

/// The key, and a number that tells it from others.
fn key(raw: raw::RequestKey) -> (RequestKey, u8) {
    match raw {
        raw::RequestKey::Source => (RequestKey::Source, 0),
        raw::RequestKey::Certificate => (RequestKey::Certificate, 1),
        raw::RequestKey::TokenSubject => (RequestKey::TokenSubject, 2),
        raw::RequestKey::TokenClient => (RequestKey::TokenClient, 3),
        raw::RequestKey::ApiKey => (RequestKey::ApiKey, 6),
        raw::RequestKey::Rule => (RequestKey::Rule, 4),
        raw::RequestKey::Service => (RequestKey::Service, 5),
    }
}

/// A key that requests need not have would put all those without it into one limiter, or none.
fn check_key(key: RequestKey, proofs: &Proofs, at: &Place<'_>) {
    match key {
        RequestKey::TokenSubject | RequestKey::TokenClient if !proofs.token => at.error_with(
            "the key is taken from a token, and the rule requires none",
            "write `require: {token: {issuer: …}}`, or another key",
        ),
        RequestKey::Certificate if !proofs.certificate => at.error_with(
            "the key is taken from a client certificate, and the rule requires none",
            "write `require: {mtls: {}}`, or another key",
        ),
        RequestKey::ApiKey if !proofs.api_key => at.error_with(
            "the key is taken from an API key, and the rule requires none",
            "write `require: {apiKey: {keys: …}}`, or another key",
        ),
        _ => {}
    }
}

fn exceed(raw: raw::Exceed, at: &Place<'_>) -> Option<Exceed> {
    match raw {
        raw::Exceed::Reject => Some(Exceed::Reject),
        raw::Exceed::Queue(text) => {
            let within = duration_within(Duration::from_millis(1), Duration::from_secs(5));
            within(text, &at.field("queue")).map(Exceed::Queue)
        }
    }
}
