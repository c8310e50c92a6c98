//! How an issuer's tokens are checked, beside their signature and claims.

use std::{num::NonZeroU64, time::Duration};

use super::{
    duration_within,
    issuer::{authorities, check_needs, parse_text, parse_url},
};
use crate::{
    raw,
    yaml::place::{Place, parsed},
};
use enforcer_model::{
    Dpop, Introspection, Pattern,
    leaf::{Rate, Unit},
    quota::source_buckets,
};

pub(super) fn dpop(raw: raw::Dpop, at: &Place<'_>) -> Dpop {
    let default = Dpop::default();
    let within = duration_within(Duration::from_secs(1), Duration::from_secs(600));
    Dpop {
        required: raw.required.unwrap_or(default.required),
        nonce: raw.nonce.unwrap_or(default.nonce),
        max_age: at
            .optional("maxAge", raw.max_age, within)
            .unwrap_or(default.max_age),
    }
}

/// How many tokens that are not known yet one source may have asked about, unless configured.
fn default_rate() -> Option<Rate> {
    Rate::new(NonZeroU64::new(20)?, Duration::from_secs(1))
}

pub(super) fn introspection(raw: raw::Introspection, at: &Place<'_>) -> Option<Introspection> {
    let url = at.required("url", raw.url, parsed(parse_url));
    let ca = authorities(raw.ca, at);
    if let Some(url) = &url {
        check_needs(ca.is_some(), url, at);
    }
    let client_id = at.required("clientId", raw.client_id, parsed(parse_text));
    let secret_file = at.required("clientSecretFile", raw.client_secret_file, |file, place| {
        let path = at.beside(&file);
        if !path.is_file() {
            place.error(format!("there is no file {}", path.display()));
        }
        Some(path)
    });
    let seconds = |least, most| duration_within(Duration::from_secs(least), Duration::from_secs(most));
    let cache = at.optional("cache", raw.cache, seconds(1, 3600));
    let negative_cache = at.optional("negativeCache", raw.negative_cache, seconds(1, 60));
    let within = duration_within(Duration::from_millis(100), Duration::from_secs(10));
    let timeout = at.optional("timeout", raw.timeout, within);
    let rate = at.optional("rate", raw.rate, |text, at| {
        let (rate, unit) = parsed(Rate::parse)(&text, at)?;
        if unit == Unit::Bytes || source_buckets(rate, rate.amount()).is_err() {
            at.error("no limiter counts tokens by that rate: write one like 20/s");
            return None;
        }
        Some(rate)
    });
    let pattern = at.optional("pattern", raw.pattern, parsed(Pattern::new));
    Some(Introspection {
        url: url?,
        ca,
        client_id: client_id?,
        secret_file: secret_file?,
        cache: cache.unwrap_or(Duration::from_secs(60)),
        negative_cache: negative_cache.unwrap_or(Duration::from_secs(5)),
        timeout: timeout.unwrap_or(Duration::from_secs(2)),
        rate: rate.or_else(default_rate)?,
        pattern,
    })
}
