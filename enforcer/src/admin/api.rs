//! What the command line asks for.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Query, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use enforcer_common::verdict::Verdict;
use ipnet::IpNet;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::revocations;
use super::wire::{
    AllowRequest, ConfigurationStatus, DenialStatus, DeniedStatus, DenyRequest, ExplainQuery,
    InterfaceFailure, InterfaceStatus, IssuerStatus, KernelStatus, ListenerStatus, PolicyStatus,
    RevokeRequest, RevokedStatus, Revokee, Status, UnusedEndpointStatus,
};
use crate::agent::{
    denials::Order,
    off_runtime::NoAnswer,
    revoke::{RevokeError, Revoked},
    state::{KernelHalf, Shared, Standing},
};
use enforcer_dataplane::{DeniedBy, KernelError, sockets};
use enforcer_gateway::{Listeners, policies::Policies};
use enforcer_model::{Mode, PolicySet, flow::Whom};
use enforcer_sys::clock::monotonic_ns;
use enforcer_telemetry::audit::record::Event;

/// The header field in which a command says whose it is, and how many bytes of it are kept.
pub const OPERATOR_HEADER: &str = "enforcer-operator";
const LONGEST_OPERATOR: usize = 64;

/// Who says to be the operator: for the audit log, and no proof of anything.
pub struct Operator(pub Option<Arc<str>>);

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let named = parts.headers.get(OPERATOR_HEADER);
        let named = named.and_then(|value| value.to_str().ok()).map(str::trim);
        let fits = |name: &&str| !name.is_empty() && name.len() <= LONGEST_OPERATOR;
        Ok(Self(named.filter(fits).map(Into::into)))
    }
}

/// The longest reason that is kept, in bytes.
const LONGEST_REASON: usize = 200;

/// `GET /v1/status`
pub async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let asked = Arc::clone(&shared);
    let read = shared.rooms.read(move || whole_status(&asked)).await;
    match read {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => no_answer(&error),
    }
}

fn whole_status(shared: &Shared) -> Result<Status, KernelError> {
    let standing = shared.standing();
    let (kernel, policies) = match &shared.kernel {
        None => (None, Vec::new()),
        Some(kernel) => (
            Some(kernel_status(kernel, &standing)),
            policies(&standing, kernel)?,
        ),
    };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.uptime().as_secs(),
        ready: shared.is_ready(),
        generation: standing.generation,
        digest: standing.digest.clone(),
        since: standing
            .since
            .and_then(|since| since.truncate_to_second().format(&Rfc3339).ok()),
        refused: standing.refused.clone(),
        configuration: ConfigurationStatus {
            refused: standing.configured.refused.clone(),
            needs_restart: standing
                .configured
                .needs_restart
                .iter()
                .map(ToString::to_string)
                .collect(),
        },
        kernel,
        policies,
        routes: standing
            .set
            .routes
            .iter()
            .map(|route| route.name.to_string())
            .collect(),
        services: standing
            .set
            .services
            .iter()
            .map(|service| service.name.to_string())
            .collect(),
        listeners: listeners(shared),
        issuers: issuers(shared),
        unused_endpoints: shared.policies.as_ref().map_or_else(Vec::new, |policies| {
            let unused = policies.unused_endpoints().into_iter();
            unused
                .map(|each| UnusedEndpointStatus {
                    service: each.service.to_string(),
                    endpoint: each.endpoint,
                    unhealthy: each.unhealthy,
                    ejected: each.ejected,
                })
                .collect()
        }),
    })
}

fn listeners(shared: &Shared) -> Vec<ListenerStatus> {
    let known = shared.listeners().map(Listeners::status);
    let known = known.unwrap_or_default().into_iter();
    known
        .map(|each| ListenerStatus {
            name: each.name.to_string(),
            address: each.address,
            files: each.files.iter().map(ToString::to_string).collect(),
            failures: each.failures,
        })
        .collect()
}

fn issuers(shared: &Shared) -> Vec<IssuerStatus> {
    let known = shared.policies.as_ref().map(Policies::issuers);
    let known = known.unwrap_or_default().into_iter();
    known
        .map(|each| {
            let read = each.state.last_success;
            IssuerStatus {
                name: each.name.to_string(),
                keys: each.keys,
                age_seconds: read.and_then(|read| read.elapsed().ok()).map(|age| age.as_secs()),
                failure: each.state.last_error.map(|why| why.to_string()),
            }
        })
        .collect()
}

/// `GET /v1/explain?address=192.0.2.1&port=443`
pub async fn explain(State(shared): State<Arc<Shared>>, Query(query): Query<ExplainQuery>) -> Response {
    let asked = Arc::clone(&shared);
    let read = shared
        .rooms
        .read(move || asked.explain(query.address, query.port))
        .await;
    match read {
        Ok(Ok(explanation)) => Json(explanation).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => no_answer(&error),
    }
}

/// `GET /v1/denials`
pub async fn denials(State(shared): State<Arc<Shared>>) -> Json<Vec<DenialStatus>> {
    let now_ns = monotonic_ns();
    let list = shared
        .kernel
        .as_ref()
        .map(|kernel| kernel.denials.list())
        .unwrap_or_default();
    let status = list.into_iter().map(|(prefix, denial)| DenialStatus {
        prefix,
        kind: denial.by.reason().name().to_owned(),
        reason: denial.reason.to_string(),
        action: denial.action.into(),
        ends_in_seconds: denial.expires_ns.saturating_sub(now_ns).div_ceil(1_000_000_000),
    });
    Json(status.collect())
}

/// `POST /v1/denials`
pub async fn deny(
    State(shared): State<Arc<Shared>>,
    Operator(operator): Operator,
    Json(request): Json<DenyRequest>,
) -> Response {
    if request.for_seconds == 0 || request.reason.len() > LONGEST_REASON {
        let text =
            format!("a denial lasts at least a second, and its reason has at most {LONGEST_REASON} bytes\n");
        return (StatusCode::UNPROCESSABLE_ENTITY, text).into_response();
    }
    let order = Order {
        operator,
        reason: request.reason.into(),
        lasts: Duration::from_secs(request.for_seconds),
    };
    let asked = Arc::clone(&shared);
    let (prefix, action) = (request.prefix, request.action.into());
    let denied = shared
        .rooms
        .change(move || asked.deny(prefix, DeniedBy::Operator, &order, action))
        .await;
    let denied = match denied {
        Ok(denied) => denied,
        Err(error) => return no_answer(&error),
    };
    match denied {
        Ok(None) => {
            // The gateway refuses its next ones already. Who asks may hang up; what is begun is done all the same.
            let work = tokio::spawn(async move {
                let (kept, _) = tokio::join!(shared.keep_denials(), shared.end_behind(prefix));
                DeniedStatus {
                    still_passes: shared.still_passing(&prefix),
                    unkept: kept.err(),
                }
            });
            match work.await {
                Ok(denied) if denied == DeniedStatus::default() => StatusCode::NO_CONTENT.into_response(),
                Ok(denied) => Json(denied).into_response(),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
            }
        }
        Ok(Some(why)) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        Err(error) => failed(&error),
    }
}

/// `DELETE /v1/denials`
pub async fn allow(
    State(shared): State<Arc<Shared>>,
    Operator(operator): Operator,
    Json(request): Json<AllowRequest>,
) -> Response {
    let asked = Arc::clone(&shared);
    let work = move || match &asked.kernel {
        None => Ok(false),
        Some(kernel) => kernel.denials.allow(request.prefix),
    };
    let removed = match shared.rooms.change(work).await {
        Ok(removed) => removed,
        Err(error) => return no_answer(&error),
    };
    match removed {
        Ok(true) => {
            shared.record(&Event::DenialEnded {
                prefix: request.prefix,
                operator: operator.as_deref(),
            });
            tracing::warn!(prefix = %request.prefix, operator = operator.as_deref(), "denial ended by the operator");
            match shared.keep_denials().await {
                Ok(()) => StatusCode::NO_CONTENT.into_response(),
                Err(why) => {
                    let text =
                        format!("the denial has ended, and may be in force again after a reboot: {why}\n");
                    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
                }
            }
        }
        Ok(false) => {
            let text = inside_a_denial(&shared, &request.prefix)
                .or_else(|| on_a_list(&shared.standing().set.clone(), &request.prefix))
                .unwrap_or_else(|| format!("{} is not denied", request.prefix));
            (StatusCode::NOT_FOUND, format!("{text}\n")).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// Which wider prefix is denied.
fn inside_a_denial(shared: &Shared, prefix: &IpNet) -> Option<String> {
    let denials = shared.kernel.as_ref()?.denials.list();
    let around: Vec<_> = denials
        .iter()
        .filter(|(denied, _)| denied.contains(prefix))
        .map(|(denied, _)| format!("`enforcer allow {denied}`"))
        .collect();
    (!around.is_empty()).then(|| {
        format!(
            "{prefix} is denied as part of a wider prefix, whose denial ends as a whole: {}",
            around.join(", ")
        )
    })
}

/// Where a policy denies a prefix: that is ended by an edit of its file.
fn on_a_list(set: &PolicySet, prefix: &IpNet) -> Option<String> {
    let now = OffsetDateTime::now_utc();
    let entries = set.packet_policies.iter().flat_map(|policy| {
        let holding = policy
            .deny
            .iter()
            .filter(move |entry| entry.until.is_none_or(|until| until > now));
        holding.map(move |entry| (policy, entry))
    });
    let (policy, entry) = entries
        .filter(|(_, entry)| entry.cidr.contains(prefix))
        .max_by_key(|(_, entry)| entry.cidr.prefix_len())?;
    Some(format!(
        "{prefix} is not denied by an operator: {} is on the deny list of policy {} ({}:{}), edit that",
        entry.cidr,
        policy.name,
        policy.origin.file.display(),
        entry.line
    ))
}

/// `POST /v1/revocations`
pub async fn revoke(
    State(shared): State<Arc<Shared>>,
    Operator(operator): Operator,
    Json(request): Json<RevokeRequest>,
) -> Response {
    if request.for_seconds == 0 || request.reason.len() > LONGEST_REASON {
        let text = format!(
            "a revocation lasts at least a second, and its reason has at most {LONGEST_REASON} bytes\n"
        );
        return (StatusCode::UNPROCESSABLE_ENTITY, text).into_response();
    }
    let order = Order {
        operator,
        reason: request.reason.as_str().into(),
        lasts: Duration::from_secs(request.for_seconds),
    };
    let whom = match &request.whom {
        Revokee::Prefix(prefix) => Whom::Source(prefix.trunc()),
        Revokee::Endpoint(peer) => Whom::Endpoint(SocketAddr::new(peer.ip().to_canonical(), peer.port())),
        Revokee::Identity(name) => Whom::Identity(name.as_str().into()),
        proof => {
            return match proof.credential() {
                Ok(Some(what)) => revocations::revoke(shared, what, order, request.unknown).await,
                Ok(None) => revocations::unprocessable("this is no proof"),
                Err(why) => revocations::unprocessable(&why),
            };
        }
    };
    // As above.
    let work = tokio::spawn(async move { shared.revoke(&whom, &order).await });
    match work.await {
        Ok(Ok(revoked)) => ended(revoked),
        Ok(Err(error)) => not_revoked(&error),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// What has ended.
pub(super) fn ended(revoked: Revoked) -> Response {
    Json(RevokedStatus {
        gateway_connections: revoked.gateway as u64,
        tcp_sockets: revoked.sockets.tcp as u64,
        udp_sockets: revoked.sockets.udp as u64,
        dropped_connections: revoked.marked as u64,
        denied: revoked.denied,
        refused: revoked.refused,
        shortfalls: revoked.shortfalls,
    })
    .into_response()
}

/// Why nothing has.
pub(super) fn not_revoked(error: &RevokeError) -> Response {
    let status = match error {
        RevokeError::Protected(_) => StatusCode::CONFLICT,
        RevokeError::Nobody(_) => StatusCode::NOT_FOUND,
        RevokeError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        RevokeError::NoAnswer(_) => StatusCode::SERVICE_UNAVAILABLE,
        RevokeError::NotKept(_) | RevokeError::Kernel(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

fn failed(error: &KernelError) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

pub(super) fn no_answer(error: &NoAnswer) -> Response {
    let status = match error {
        NoAnswer::Late => StatusCode::SERVICE_UNAVAILABLE,
        NoAnswer::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

fn kernel_status(kernel: &KernelHalf, standing: &Standing) -> KernelStatus {
    let (flows, identities) = kernel.flows.count();
    let interfaces = standing.kernel.attached.iter().map(|each| InterfaceStatus {
        name: each.interface.clone(),
        xdp: each.xdp.to_string(),
        tc: each.tc.to_string(),
        pod: each.pod,
    });
    let failures = standing.kernel.failures.iter();
    KernelStatus {
        interfaces: interfaces.collect(),
        failures: failures
            .map(|(name, why)| InterfaceFailure {
                name: name.clone(),
                why: why.clone(),
            })
            .collect(),
        verified_flows: flows as u64,
        verified_identities: identities as u64,
        denials: kernel.denials.list().len() as u64,
        revoked_flows: kernel.revoked.count() as u64,
        sketch_bytes: kernel.sketch.bytes(),
        pins: kernel
            .began
            .pins
            .as_ref()
            .ok()
            .map(|folder| folder.display().to_string()),
        pins_off: kernel.began.pins.as_ref().err().cloned(),
        state: if kernel.began.fresh.is_none() {
            "kept"
        } else {
            "fresh"
        }
        .to_owned(),
        state_why: kernel.began.fresh.clone(),
        syn_shortfalls: standing.syn_shortfalls.iter().map(ToString::to_string).collect(),
        revoke_shortfall: sockets::probe().err(),
    }
}

fn policies(standing: &Standing, kernel: &KernelHalf) -> Result<Vec<PolicyStatus>, KernelError> {
    let policies = standing.kernel.set.packet_policies.iter();
    policies
        .filter_map(|policy| Some((policy, standing.kernel.number(&policy.name)?)))
        .map(|(policy, number)| {
            let counts = kernel.counters.said_by_policy(number)?;
            let sum = |verdict| -> u64 {
                counts
                    .iter()
                    .filter(|count| count.verdict == verdict)
                    .map(|count| count.total.packets)
                    .sum()
            };
            let state = standing.states.get(&policy.name).copied().unwrap_or_default();
            Ok(PolicyStatus {
                name: policy.name.to_string(),
                mode: if policy.mode == Mode::Shadow {
                    "shadow"
                } else {
                    "enforce"
                }
                .to_owned(),
                state: state.name().to_owned(),
                passed_packets: sum(Verdict::Pass),
                dropped_packets: sum(Verdict::Drop) + sum(Verdict::Reset),
                shadow_packets: sum(Verdict::Shadow),
                answered_packets: sum(Verdict::Answer),
                reset_packets: sum(Verdict::Reset),
                answers_syns: standing.answering.get(&policy.name).copied(),
            })
        })
        .collect()
}
