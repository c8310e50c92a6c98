//! Revoking proofs: what rests on them ends, and later requests with them are refused.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;

use super::{
    denials::Order,
    revoke::{RevokeError, Revoked},
    state::Shared,
};
use enforcer_gateway::Ended;
use enforcer_model::{Credential, Name, Revocation};
use enforcer_telemetry::audit::record::Event;

/// How long what still comes of an ended connection is dropped, at most.
const DROPPED: Duration = Duration::from_secs(60);

/// The longest that a revocation lasts.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

impl Shared {
    /// Revokes a proof for a while: requests with it are refused from now on, and connections that rest on it end by a
    /// reset, with the class of verified connections that they have in the kernel.
    ///
    /// # Errors
    /// There is no gateway, or no issuer of that name; as many are revoked as there can be; the kernel refuses.
    pub async fn revoke_proof(
        self: &Arc<Self>,
        what: Credential,
        order: &Order,
    ) -> Result<Revoked, RevokeError> {
        let lasts = order.lasts;
        let policies = self.policies.as_ref().ok_or_else(no_gateway)?;
        if let Some(issuer) = issuer(&what)
            && self.standing().set.issuer(issuer).is_none()
        {
            return Err(RevokeError::Nobody(format!(
                "the policies have no issuer `{issuer}`: it is the document's name, not the `iss` of tokens"
            )));
        }
        let shown = what.to_string();
        let entry = Revocation {
            what,
            reason: Some(Arc::clone(&order.reason)),
            until: Some(OffsetDateTime::now_utc() + lasts.min(LONGEST)),
        };
        policies.revocations().add(entry)?;
        let end = async {
            match self.revoker() {
                Some(revoker) => revoker.end_revoked().await,
                None => Ended::default(),
            }
        };
        // The disk may take its time: connections end meanwhile.
        let (kept, ended) = tokio::join!(self.keep(), end);
        let mut revoked = Revoked {
            refused: true,
            ..Revoked::default()
        };
        let flows = revoked.take(ended);
        if let Err(why) = kept {
            revoked
                .shortfalls
                .push(format!("the revocation ends when the agent does: {why}"));
        }
        self.mark(&flows, lasts.min(DROPPED), &mut revoked).await?;
        self.record(&Event::Revoked {
            whom: shown.clone(),
            operator: order.operator.as_deref(),
            reason: &order.reason,
            seconds: lasts.as_secs(),
            gateway_connections: revoked.gateway,
            tcp_sockets: 0,
            udp_sockets: 0,
            shortfalls: &revoked.shortfalls,
        });
        tracing::warn!(
            what = shown,
            reason = %order.reason,
            operator = order.operator.as_deref(),
            ?lasts,
            gateway = revoked.gateway,
            "proof revoked"
        );
        Ok(revoked)
    }

    /// Writes what is revoked into the state directory.
    async fn keep(self: &Arc<Self>) -> Result<(), String> {
        let kept = match &self.policies {
            Some(policies) => self.kept.revocations.save(policies.revocations()).await,
            None => Ok(()),
        };
        if let Err(error) = &kept {
            tracing::error!(%error, "the operator's revocations would not hold after a restart");
        }
        kept
    }

    /// Ends a revocation that was not written in a file.
    ///
    /// # Errors
    /// There is none.
    pub async fn restore_proof(
        self: &Arc<Self>,
        what: &Credential,
        operator: Option<&str>,
    ) -> Result<(), RevokeError> {
        let policies = self.policies.as_ref().ok_or_else(no_gateway)?;
        if policies.revocations().remove(what) {
            self.keep().await.map_err(RevokeError::NotKept)?;
            self.record(&Event::RevocationEnded {
                whom: what.to_string(),
                operator,
            });
            tracing::warn!(%what, operator, "revocation ended by the operator");
            return Ok(());
        }
        Err(RevokeError::Nobody(format!(
            "{what} is not revoked by an operator; what files revoke ends with their entry"
        )))
    }
}

fn no_gateway() -> RevokeError {
    RevokeError::Nobody("this agent has no gateway, which would look at proofs".to_owned())
}

fn issuer(what: &Credential) -> Option<&Name> {
    match what {
        Credential::Token { issuer, .. }
        | Credential::Subject { issuer, .. }
        | Credential::Client { issuer, .. } => Some(issuer),
        Credential::Key(_) | Credential::Certificate(_) | Credential::Serial { .. } => None,
    }
}
