//! How a rule's requests are handled once they are admitted.

use std::time::Duration;

use super::{
    Known,
    changes::{Way, field_changes, rewrite},
    destination::mirror,
    duration_within,
};
use crate::{
    raw,
    yaml::{
        place::{Place, Unique},
        tree::Value,
    },
};
use enforcer_model::{
    leaf::PathMatch,
    matching::Condition,
    routing::{Priority, Routing, Upgrade},
};

/// Takes what it judges out of the raw rule at `at`, which is about `path` and `conditions`.
pub(super) fn routing(
    raw: &mut raw::Rule,
    path: &PathMatch,
    conditions: Vec<Condition>,
    at: &Place<'_>,
    known: &Known,
) -> Routing {
    let mirror = at.optional("mirror", raw.mirror.take(), |raw, at| mirror(raw, at, known));
    if mirror.is_some() && at.mentions("upgrade") {
        at.field("mirror").error_with(
            "a connection that is switched cannot be copied",
            "leave out `mirror`, or `upgrade`",
        );
    }
    let rewrite = at.optional("rewrite", raw.rewrite.take(), |raw, at| rewrite(raw, path, at));
    let request_fields = at.optional("requestHeaders", raw.request_headers.take(), |raw, at| {
        field_changes(raw, Way::ToService, at)
    });
    let response_fields = at.optional("responseHeaders", raw.response_headers.take(), |raw, at| {
        field_changes(raw, Way::ToClient, at)
    });
    let priority = match raw.priority {
        Some(raw::Priority::Low) => Priority::Low,
        Some(raw::Priority::Normal) | None => Priority::Normal,
        Some(raw::Priority::High) => Priority::High,
    };
    let upgrade = raw.upgrade.take().map(|list| upgrades(list.0, at));
    let within = duration_within(Duration::from_millis(1), Duration::from_secs(24 * 3600));
    let idle = at.optional("idle", raw.idle.take(), within);
    Routing {
        conditions,
        mirror,
        rewrite: rewrite.unwrap_or_default(),
        request_fields: request_fields.unwrap_or_default(),
        response_fields: response_fields.unwrap_or_default(),
        priority,
        upgrade: upgrade.unwrap_or_default(),
        idle,
    }
}

fn upgrades(list: Vec<raw::Upgrade>, at: &Place<'_>) -> Vec<Upgrade> {
    let place = at.field("upgrade");
    // One whose elements are all broken is not empty.
    if matches!(&place.node().value, Value::List(nodes) if nodes.is_empty()) {
        place.error_with(
            "the list is empty",
            "write `upgrade: websocket`, or leave the field out",
        );
    }
    let mut seen = Unique::default();
    at.each("upgrade", list, |(raw, at)| {
        let (upgrade, rank) = match raw {
            raw::Upgrade::WebSocket => (Upgrade::WebSocket, 0),
            raw::Upgrade::Connect => (Upgrade::Connect, 1),
        };
        seen.claim(rank, &at, |_| {
            "this protocol is named above already: write it once".to_owned()
        });
        Some(upgrade)
    })
}
