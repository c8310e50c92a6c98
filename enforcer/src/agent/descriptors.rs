//! File descriptors: without one no connection is accepted, no interface is found and no file is read.

use std::num::NonZeroUsize;

use enforcer_gateway::config::GatewayConfig;
use enforcer_sys::descriptors::raise_descriptor_limit;

/// For all but clients and services: maps, programs, sockets, files.
const OWN: u64 = 256;
/// A client's connection may need one of its own and one to a service.
const OF_A_CONNECTION: u64 = 2;

/// How many this process may have open.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors(u64);

/// Fewer connections than this make no gateway.
const FEWEST: u64 = 64;

impl Descriptors {
    /// Whether there are enough to begin with. The number that there must be, if not.
    pub fn are_too_few_for(self, gateway: &GatewayConfig) -> Option<u64> {
        let wanted = FEWEST.min(gateway.max_connections.get() as u64);
        let needed = OWN + OF_A_CONNECTION * wanted;
        (self.0 < needed).then_some(needed)
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        self.0
    }

    /// Raises the soft limit to the hard one.
    pub fn raise() -> Self {
        Self(raise_descriptor_limit().unwrap_or_else(|error| {
            tracing::warn!(%error, "the limit of file descriptors cannot be raised");
            u64::MAX
        }))
    }

    /// Lowers `maxConnections` to what there are descriptors for, so that the agent keeps its own.
    pub fn fit(self, gateway: &mut GatewayConfig) {
        let affordable = (self.0.saturating_sub(OWN) / OF_A_CONNECTION).max(1);
        let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
        let Some(affordable) = NonZeroUsize::new(affordable) else {
            return;
        };
        if gateway.max_connections > affordable {
            tracing::warn!(
                configured = gateway.max_connections,
                lowered = affordable,
                descriptors = self.0,
                "gateway.maxConnections is lowered to the file descriptors that there are: raise LimitNOFILE= of the \
                 unit, or write a lower gateway.maxConnections"
            );
            gateway.max_connections = affordable;
            gateway.per_source.connections = gateway.per_source.connections.min(affordable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::convert, config::Config};

    #[test]
    fn connections_are_lowered_to_the_descriptors_and_the_agent_keeps_its_own() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("enforcer.yaml");
        let text = "policies: [.]\ngateway: {maxConnections: 1000, listeners: [{name: a, address: '127.0.0.1:0'}]}\n";
        std::fs::write(&file, text).unwrap();
        let gateway = convert::gateway(&Config::load(&file).unwrap()).unwrap();
        for (descriptors, needed) in [(u64::MAX, None), (384, None), (383, Some(384)), (10, Some(384))] {
            assert_eq!(Descriptors(descriptors).are_too_few_for(&gateway), needed);
        }
        for (descriptors, connections) in [(u64::MAX, 1000), (2256, 1000), (1256, 500), (384, 64)] {
            let mut fitted = gateway.clone();
            Descriptors(descriptors).fit(&mut fitted);
            assert_eq!(fitted.max_connections.get(), connections, "{descriptors}");
            assert!(fitted.per_source.connections <= fitted.max_connections);
        }
    }
}
