//! What the gateway does beside requests, on a thread of its own: health checks and names.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    expiring,
    listener::ListenerContext,
    metrics::GatewayMetrics,
    policies::{Generation, Policies},
    upstream::{endpoint::SharedEndpoint, health, outlier::Keeper, resolve},
};
use enforcer_model::Name;
use enforcer_supervision::Part;
use enforcer_tls::{Reload, TlsError};

/// How often it says that it is there.
const BEAT: Duration = Duration::from_millis(500);

/// Tasks for one endpoint.
struct Watch {
    endpoint: Arc<SharedEndpoint>,
    tasks: Vec<AbortHandle>,
}

/// Runs until the gateway is gone.
pub(super) async fn run(
    policies: Policies,
    metrics: GatewayMetrics,
    part: Part,
    gone: oneshot::Receiver<()>,
) {
    let mut changes = policies.changes();
    let mut tasks = JoinSet::new();
    let mut watches = HashMap::new();
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut gone = gone;
    let mut generation = policies.current();
    let mut keeper = Keeper::default();
    let mut next_look = keeper.look(&generation, &metrics, Instant::now());
    update(&mut watches, &mut tasks, &generation, &metrics);
    loop {
        tokio::select! {
            _ = &mut gone => break,
            changed = changes.changed() => {
                if changed.is_err() {
                    break;
                }
                let old = std::mem::replace(&mut generation, policies.current());
                forget(&old, &generation, &metrics);
                update(&mut watches, &mut tasks, &generation, &metrics);
                next_look = keeper.look(&generation, &metrics, Instant::now());
            }
            () = policies.board().alarm() => {
                next_look = keeper.look(&generation, &metrics, Instant::now());
            }
            () = tokio::time::sleep_until(next_look) => {
                next_look = keeper.look(&generation, &metrics, Instant::now());
            }
            _ = beats.tick() => part.beat(),
            // Only aborted tasks end.
            Some(_) = tasks.join_next() => {}
        }
    }
    part.end();
}

/// Looks at a listener's files and takes them over that have changed.
///
/// # Errors
/// What is wrong with the first of those that are not; all are also logged and counted, once.
pub(super) fn reload(listener: &ListenerContext, metrics: &GatewayMetrics) -> Result<(), TlsError> {
    let Some(tls) = &listener.tls else { return Ok(()) };
    let name = &listener.name;
    let Reload { changed, errors } = tls.reload();
    if changed {
        let files = tls.expiries().into_iter().map(|expiry| expiry.to_string());
        let files: Vec<_> = files.collect();
        tracing::info!(listener = %name, files = files.join(", "), "new certificate files are in use");
        expiring::show_listener(listener, metrics);
    }
    // The files are looked at all the time, and stay bad for longer.
    for error in tls.news(&errors) {
        metrics.reload_failures.inc();
        tracing::error!(
            listener = %name, %error,
            "certificate files are not taken over: the old ones stay in use"
        );
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Takes out what was counted for routes that are gone, so that names do not pile up. What workers
/// count for them until they notice is lost.
fn forget(old: &Generation, new: &Generation, metrics: &GatewayMetrics) {
    let routes = |generation: &Generation| -> HashSet<Name> {
        generation
            .set
            .routes
            .iter()
            .map(|route| route.name.clone())
            .collect()
    };
    let rules = |generation: &Generation| -> HashSet<(Name, Name)> {
        let routes = generation.set.routes.iter();
        routes
            .flat_map(|route| {
                let services = route.rules.iter().flat_map(|rule| rule.destination.services());
                services.map(|each| (route.name.clone(), each.service.clone()))
            })
            .collect()
    };
    let mirrors = |generation: &Generation| -> HashSet<(Name, Name)> {
        let routes = generation.set.routes.iter();
        routes
            .flat_map(|route| {
                let mirrors = route.rules.iter().filter_map(|rule| rule.routing.mirror.as_ref());
                mirrors.map(|mirror| (route.name.clone(), mirror.service.clone()))
            })
            .collect()
    };
    let services = |generation: &Generation| -> HashSet<Name> {
        generation
            .set
            .services
            .iter()
            .map(|service| service.name.clone())
            .collect()
    };
    for service in services(old).difference(&services(new)) {
        metrics.forget_service(service.as_str());
    }
    for (route, service) in rules(old).difference(&rules(new)) {
        metrics.forget_rule(route.as_str(), service.as_str());
    }
    for (route, service) in mirrors(old).difference(&mirrors(new)) {
        metrics.forget_mirror(route.as_str(), service.as_str());
    }
    for route in routes(old).difference(&routes(new)) {
        metrics.forget_route(route.as_str());
    }
}

/// Ends what watched endpoints that are gone, and watches those that are new.
fn update(
    watches: &mut HashMap<(Name, Authority), Watch>,
    tasks: &mut JoinSet<()>,
    generation: &Generation,
    metrics: &GatewayMetrics,
) {
    let wanted: HashMap<_, _> = generation
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| ((endpoint.service.clone(), endpoint.authority.clone()), endpoint))
        .collect();
    watches.retain(|key, watch| {
        let stays = wanted
            .get(key)
            .is_some_and(|endpoint| Arc::ptr_eq(endpoint, &watch.endpoint));
        if !stays {
            watch.tasks.iter().for_each(AbortHandle::abort);
            metrics.forget_endpoint(key.0.as_str(), key.1.as_str());
        }
        stays
    });
    for (key, endpoint) in wanted {
        watches
            .entry(key)
            .or_insert_with(|| watch(endpoint, tasks, metrics));
    }
}

fn watch(endpoint: &Arc<SharedEndpoint>, tasks: &mut JoinSet<()>, metrics: &GatewayMetrics) -> Watch {
    let labels = [endpoint.service.as_str(), endpoint.authority.as_str()];
    let gauge = metrics.endpoint_healthy.with_label_values(&labels);
    gauge.set(i64::from(endpoint.is_healthy()));
    let ejected = metrics.endpoint_ejected.with_label_values(&labels);
    ejected.set(i64::from(endpoint.is_ejected()));
    let mut handles = Vec::new();
    if let Some(health) = endpoint.health.clone() {
        handles.push(tasks.spawn(health::keep_checked(Arc::clone(endpoint), health, gauge)));
    }
    if endpoint.is_name() {
        handles.push(tasks.spawn(resolve::keep_resolved(Arc::clone(endpoint))));
    }
    Watch {
        endpoint: Arc::clone(endpoint),
        tasks: handles,
    }
}
