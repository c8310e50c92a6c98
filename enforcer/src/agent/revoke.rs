//! Ending live connections: the gateway's own by a reset, other processes' by destroying their sockets, and
//! whatever still comes of them in the kernel.

use std::{collections::HashSet, io, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{denials::Order, off_runtime::NoAnswer, state::Shared};
use enforcer_dataplane::{
    DeniedBy, KernelError,
    sockets::{self, Destroyed},
};
use enforcer_gateway::{Ended, revocation::Full};
use enforcer_model::{
    Action,
    flow::{Flow, Whom},
};
use enforcer_telemetry::audit::record::Event;

/// What a revocation has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Connections of the gateway that were closed.
    pub gateway: usize,
    /// Other sockets that were destroyed.
    pub sockets: Destroyed,
    /// Connections whose packets are dropped from now on.
    pub marked: usize,
    /// The source is denied.
    pub denied: bool,
    /// Later requests with the proof are refused.
    pub refused: bool,
    /// What was not done, and why.
    pub shortfalls: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// It is never cut off.
    #[error("{0}")]
    Protected(String),
    /// There is nobody.
    #[error("{0}")]
    Nobody(String),
    #[error(transparent)]
    Full(#[from] Full),
    /// It is done, and undone when the agent starts again.
    #[error("the revocation has ended, and will be in force again when the agent restarts: {0}")]
    NotKept(String),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Revoked {
    /// Counts what the gateway has ended. Which connections these were.
    pub(super) fn take(&mut self, ended: Ended) -> Vec<Flow> {
        self.gateway = ended.flows.len();
        if ended.silent > 0 {
            self.shortfalls.push(format!(
                "{} workers of the gateway do not answer: what they serve ends when they go on",
                ended.silent
            ));
        }
        ended.flows
    }
}

impl Shared {
    /// Ends the connections of `whom`, and drops what still comes of them for a while. A whole source is denied
    /// for that time.
    ///
    /// # Errors
    /// It is on the management list or this node itself; nobody is connected so; the kernel refuses.
    pub async fn revoke(self: &Arc<Self>, whom: &Whom, order: &Order) -> Result<Revoked, RevokeError> {
        let lasts = order.lasts;
        self.spare(whom)?;
        let mut revoked = Revoked::default();
        if let Whom::Source(prefix) = whom {
            // First, so that none comes in between.
            self.deny_source(*prefix, order, &mut revoked).await?;
        }
        let own = self.end(whom, &mut revoked).await;
        let flows: Vec<Flow> = own.iter().chain(&revoked.sockets.flows).copied().collect();
        if !revoked.denied {
            self.mark(&flows, lasts, &mut revoked).await?;
        }
        if flows.is_empty() {
            match whom {
                Whom::Source(_) | Whom::Named { .. } => {}
                Whom::Endpoint(peer) => {
                    return Err(RevokeError::Nobody(format!(
                        "no connection from {peer} ends at this node"
                    )));
                }
                Whom::Identity(name) => {
                    return Err(RevokeError::Nobody(format!(
                        "nobody is connected as `{name}`: `enforcer explain ADDRESS` shows who is, as `certificate …` \
                         or `token … of …`"
                    )));
                }
            }
        }
        self.record(&Event::Revoked {
            whom: whom.to_string(),
            operator: order.operator.as_deref(),
            reason: &order.reason,
            seconds: lasts.as_secs(),
            gateway_connections: revoked.gateway,
            tcp_sockets: revoked.sockets.tcp,
            udp_sockets: revoked.sockets.udp,
            shortfalls: &revoked.shortfalls,
        });
        tracing::warn!(
            %whom,
            reason = %order.reason,
            operator = order.operator.as_deref(),
            ?lasts,
            gateway = revoked.gateway,
            tcp = revoked.sockets.tcp,
            udp = revoked.sockets.udp,
            shortfalls = revoked.shortfalls.join("; "),
            "connections revoked"
        );
        Ok(revoked)
    }

    /// Ends what clients of a denied source have open through load balancers: the kernel drops what it sees come from
    /// the source, and does not see that. How many connections.
    pub async fn end_behind(&self, prefix: IpNet) -> usize {
        let Some(revoker) = self.revoker() else { return 0 };
        let whom = Whom::Named {
            prefix: prefix.trunc(),
            except: self.still_passing(&prefix).into(),
        };
        let ended = revoker.revoke(&whom).await.flows;
        if !ended.is_empty() {
            tracing::info!(%prefix, connections = ended.len(), "connections of a denied source behind load balancers ended");
        }
        ended.len()
    }

    /// Management and the node itself are never cut off.
    fn spare(&self, whom: &Whom) -> Result<(), RevokeError> {
        let prefix = match whom {
            Whom::Source(prefix) | Whom::Named { prefix, .. } => *prefix,
            Whom::Endpoint(peer) => IpNet::from(peer.ip().to_canonical()),
            Whom::Identity(_) => return Ok(()),
        };
        if is_loopback(&prefix) {
            return Err(RevokeError::Protected(format!(
                "{prefix} is this node itself, which is not cut off from itself"
            )));
        }
        match self.protected(&prefix) {
            Some(protected) => Err(RevokeError::Protected(format!(
                "{prefix} is on the management list ({protected}), whose connections are never revoked"
            ))),
            None => Ok(()),
        }
    }

    async fn deny_source(
        self: &Arc<Self>,
        prefix: IpNet,
        order: &Order,
        revoked: &mut Revoked,
    ) -> Result<(), RevokeError> {
        let (shared, order) = (Arc::clone(self), order.clone());
        let deny = move || shared.deny(prefix, DeniedBy::Operator, &order, Action::Reset);
        match self.rooms.change(deny).await?? {
            None => {
                revoked.denied = true;
                if let Err(why) = self.keep_denials().await {
                    revoked
                        .shortfalls
                        .push(format!("the denial would not outlive a reboot: {why}"));
                }
            }
            Some(why) => revoked.shortfalls.push(format!("{prefix} is not denied: {why}")),
        }
        Ok(())
    }

    /// Closes the gateway's connections, and destroys other sockets. The gateway's.
    async fn end(self: &Arc<Self>, whom: &Whom, revoked: &mut Revoked) -> Vec<Flow> {
        let ended = match self.revoker() {
            Some(revoker) => revoker.revoke(whom).await,
            None => Ended::default(),
        };
        let own = revoked.take(ended);
        // Nobody has proved to other processes who they are, as far as this one knows.
        if matches!(whom, Whom::Identity(_)) {
            return own;
        }
        match self.destroy(whom, own.iter().copied().collect()).await {
            Ok(destroyed) => revoked.sockets = destroyed,
            Err(error) => revoked.shortfalls.push(sockets::shortfall(&error)),
        }
        let metrics = &self.metrics.sockets_destroyed;
        metrics
            .with_label_values(&["tcp"])
            .inc_by(revoked.sockets.tcp as u64);
        metrics
            .with_label_values(&["udp"])
            .inc_by(revoked.sockets.udp as u64);
        own
    }

    /// One at a time: each looks through all sockets of the node.
    async fn destroy(self: &Arc<Self>, whom: &Whom, except: HashSet<Flow>) -> io::Result<Destroyed> {
        let _turn = self.destroying.lock().await;
        let whom = whom.clone();
        let looked = tokio::task::spawn_blocking(move || sockets::destroy(&whom, &except)).await;
        looked.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Has what still comes of connections dropped for a while.
    pub(super) async fn mark(
        self: &Arc<Self>,
        flows: &[Flow],
        lasts: Duration,
        revoked: &mut Revoked,
    ) -> Result<(), RevokeError> {
        if self.kernel.is_none() {
            revoked
                .shortfalls
                .push("the kernel half is off: what the peers still send is not dropped".to_owned());
            return Ok(());
        }
        let (shared, marked) = (Arc::clone(self), flows.to_vec());
        revoked.marked = self
            .rooms
            .change(move || shared.mark_all(&marked, lasts))
            .await??;
        let unmarked = flows.len() - revoked.marked;
        if unmarked > 0 {
            revoked.shortfalls.push(format!(
                "what the peers of {unmarked} connections still send is not dropped: as many are revoked as there can be"
            ));
        }
        Ok(())
    }

    /// How many of them are marked: there may be no room for more.
    fn mark_all(&self, flows: &[Flow], lasts: Duration) -> Result<usize, KernelError> {
        let Some(kernel) = &self.kernel else { return Ok(0) };
        let mut marked = 0;
        for flow in flows {
            marked += usize::from(kernel.revoked.revoke(*flow, lasts)?);
        }
        Ok(marked)
    }
}

fn is_loopback(prefix: &IpNet) -> bool {
    let IpAddr::V4(first) = prefix.network().to_canonical() else {
        return prefix.network().is_loopback() && prefix.prefix_len() == 128;
    };
    first.is_loopback() && prefix.prefix_len() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_node() {
        for prefix in ["127.0.0.1/32", "127.0.0.0/8", "::1/128"] {
            assert!(is_loopback(&prefix.parse().unwrap()), "{prefix}");
        }
        for prefix in ["192.0.2.0/24", "126.0.0.0/7", "::/64", "2001:db8::1/128"] {
            assert!(!is_loopback(&prefix.parse().unwrap()), "{prefix}");
        }
    }
}
