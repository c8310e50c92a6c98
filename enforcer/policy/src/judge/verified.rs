//! What verified identities have for themselves, and what sources keep that were verified recently.

use std::{num::NonZeroU64, time::Duration};

use enforcer_common::limiter::{Algorithm, Params};

use super::{
    duration_within,
    limit::{Draft, Measure},
    packet::default_burst,
};
use crate::{raw, yaml::place::Place};
use enforcer_model::{Budget, Recent, leaf::Rate};

/// The share of a source that was verified recently, unless the policy says: five new connections a second,
/// of about ten packets each, and ten at once.
const SHARE_PER_SECOND: NonZeroU64 = NonZeroU64::MIN.saturating_add(49);
/// Packets at once.
const SHARE_BURST: NonZeroU64 = NonZeroU64::MIN.saturating_add(99);
/// How long it is kept after the last verified connection.
const LASTS: Duration = Duration::from_secs(600);

/// The budget, if one is written, and the share.
pub(super) fn verified(raw: raw::Verified, at: &Place<'_>) -> Option<(Option<Budget>, Option<Recent>)> {
    // Who writes of the share alone has budgets by the limits.
    let alone = at.mentions("recent") && !at.mentions("rate") && !at.mentions("burst");
    let budget = if alone {
        None
    } else {
        Some(bucket(raw.rate, raw.burst, at)?.0)
    };
    let recent = match raw.recent {
        None => default_recent(),
        Some(raw::Recent::Off) => None,
        Some(raw::Recent::Share(share)) => Some(recent(share, &at.field("recent"))?),
    };
    Some((budget, recent))
}

/// What a policy that speaks of verified identities keeps without saying so.
pub(super) fn default_recent() -> Option<Recent> {
    let second = Duration::from_secs(1);
    let budget = Budget {
        rate: Rate::new(SHARE_PER_SECOND, second)?,
        burst: SHARE_BURST,
    };
    let (amount, burst) = (SHARE_PER_SECOND.get(), SHARE_BURST.get());
    let params = Params::new(Algorithm::TokenBucket, amount, 1_000_000_000, burst).ok()?;
    Some(Recent {
        budget,
        params,
        lasts: LASTS,
    })
}

fn recent(raw: raw::RecentShare, at: &Place<'_>) -> Option<Recent> {
    let lasts = at.optional(
        "for",
        raw.lasts,
        duration_within(Duration::from_secs(60), Duration::from_secs(86_400)),
    );
    let (budget, params) = bucket(raw.rate, raw.burst, at)?;
    Some(Recent {
        budget,
        params,
        lasts: lasts.unwrap_or(LASTS),
    })
}

/// A rate of packets, and how many may come at once.
fn bucket(rate: Option<raw::Rate>, burst: Option<raw::Quantity>, at: &Place<'_>) -> Option<(Budget, Params)> {
    let rate = at.required("rate", rate, |text, at| Measure::Packets.rate(text.as_ref(), at));
    let burst = at.optional("burst", burst, |burst, at| Measure::Packets.burst(burst, at));
    let draft = Draft {
        algorithm: None,
        rate,
        burst,
        default_burst: default_burst(Measure::Packets),
    };
    draft.build(at)
}
