//! Interfaces are followed as the kernel tells of them. The controller looks at all of them in each of its
//! intervals besides, for messages can be lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::state::Shared;
use enforcer_sys::links::Links;

/// At least so long from one application to the next: interfaces come in crowds, and each with several messages.
const PAUSE: Duration = Duration::from_millis(20);

/// Applies the policies in force to interfaces that come, go or change, until it is aborted.
pub async fn follow(shared: Arc<Shared>) {
    let links = match Links::listen() {
        Ok(links) => links,
        Err(error) => {
            tracing::error!(%error, "the kernel does not tell of interfaces; they are looked at in each `adapt.interval`");
            return;
        }
    };
    // What came between the first application and now.
    apply(&shared, BTreeSet::new()).await;
    loop {
        match links.changes().await {
            Ok(changes) => apply(&shared, changes.gone).await,
            Err(error) => {
                tracing::error!(%error, "the kernel no longer tells of interfaces; they are looked at in each `adapt.interval`");
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn apply(shared: &Arc<Shared>, gone: BTreeSet<u32>) {
    let shared = Arc::clone(shared);
    // Writing large access lists takes a while.
    let applied = tokio::task::spawn_blocking(move || shared.follow_interfaces(&gone)).await;
    if let Err(error) = applied {
        tracing::error!(%error, "following interfaces failed");
    }
}
