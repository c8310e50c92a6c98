//! What is denied in the kernel by operators and by the agent, and what outlives it.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;

use super::state::Shared;
use enforcer_dataplane::{DeniedBy, KernelError};
use enforcer_model::Action;
use enforcer_telemetry::audit::record::Event;

/// What an operator, or the agent, wants done for a while.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who says to be the operator.
    pub operator: Option<Arc<str>>,
    /// Why.
    pub reason: Arc<str>,
    /// For how long.
    pub lasts: Duration,
}

impl Shared {
    /// Denies a prefix in the kernel. `Ok(Some(why))` says why it was not done.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn deny(
        &self,
        prefix: IpNet,
        by: DeniedBy,
        order: &Order,
        action: Action,
    ) -> Result<Option<String>, KernelError> {
        let Some(kernel) = &self.kernel else {
            return Ok(Some(
                "the kernel half is off: `kernel.enabled` is false".to_owned(),
            ));
        };
        if let Some(protected) = self.protected(&prefix)
            && (by != DeniedBy::Operator || protected.contains(&prefix))
        {
            return Ok(Some(format!(
                "{prefix} is on the management list ({protected}), which is never denied"
            )));
        }
        let Order {
            operator,
            reason,
            lasts,
        } = order;
        kernel.denials.deny(prefix, by, reason, *lasts, action)?;
        self.record(&Event::Denied {
            prefix,
            by: by.reason().name(),
            operator: operator.as_deref(),
            reason,
            seconds: lasts.as_secs(),
        });
        tracing::warn!(%prefix, %reason, ?lasts, operator = operator.as_deref(), by = by.reason().name(), "denied in the kernel");
        Ok(None)
    }

    /// What of the management list is inside a denied prefix, and passes all the same: management comes first.
    #[must_use]
    pub fn still_passing(&self, prefix: &IpNet) -> Vec<IpNet> {
        let inside = self.management.iter().filter(|listed| prefix.contains(*listed));
        inside.copied().collect()
    }

    /// The entry of the management list that has to do with a prefix.
    pub(super) fn protected(&self, prefix: &IpNet) -> Option<&IpNet> {
        self.management.iter().find(|listed| overlap(listed, prefix))
    }

    /// Writes what operators have denied into the state directory.
    ///
    /// # Errors
    /// It is not kept, and why; or not yet.
    pub async fn keep_denials(&self) -> Result<(), String> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let denials = kernel.denials.clone();
        let kept = self.kept.denials.save(move || denials.list()).await;
        if let Err(error) = &kept {
            tracing::error!(%error, "the operator's denials would not hold after a reboot");
        }
        kept
    }

    /// Puts what operators have denied in force again, unless the maps hold it. Whether it was read from the file.
    pub fn restore_denials(&self) -> bool {
        let Some(kernel) = &self.kernel else { return true };
        if kernel.began.fresh.is_none() {
            return false;
        }
        let mut restored = 0_usize;
        for each in self.kept.denials.restore() {
            let prefix = each.prefix;
            if let Some(protected) = self.protected(&prefix).filter(|listed| listed.contains(&prefix)) {
                tracing::warn!(%prefix, %protected, "not denied again: it is on the management list by now");
                continue;
            }
            let denials = &kernel.denials;
            match denials.deny(
                prefix,
                DeniedBy::Operator,
                &each.reason,
                each.lasts,
                each.action.into(),
            ) {
                Ok(()) => restored += 1,
                Err(error) => tracing::error!(%prefix, %error, "an operator's denial is not in force again"),
            }
        }
        if restored > 0 {
            tracing::info!(denials = restored, "the operator's denials are in force again");
        }
        true
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
