//! The configuration file's words, in those of the parts that it is for.

use enforcer_tls::config::{ClientCertificates, TlsConfig};
use std::num::NonZeroUsize;

use crate::config::{self, Clients, Config, XdpMode};
use enforcer_dataplane;
use enforcer_gateway::config as gateway;

/// What the kernel half is told.
pub fn kernel(config: &Config) -> enforcer_dataplane::Config {
    enforcer_dataplane::Config {
        xdp: match config.kernel.xdp {
            XdpMode::Auto => enforcer_dataplane::XdpChoice::Auto,
            XdpMode::Native => enforcer_dataplane::XdpChoice::Native,
            XdpMode::Generic => enforcer_dataplane::XdpChoice::Generic,
        },
        management: config.kernel.management.clone(),
        sketch_bytes: u64::from(config.kernel.sketch_memory.bytes()),
        max_flows: config.kernel.max_flows,
    }
}

/// How the kernel half outlives the agent.
pub fn staying(config: &Config) -> enforcer_dataplane::Staying {
    enforcer_dataplane::Staying {
        pins: config.kernel.pins.clone(),
        dead_man: config.kernel.dead_man,
        keeps_denials: config.kernel.dead_man_keeps_denials,
        keeps_cookies: config.kernel.dead_man_keeps_cookies,
    }
}

/// What the gateway is started with. `None`: it has no listeners.
pub fn gateway(config: &Config) -> Option<gateway::GatewayConfig> {
    let listeners: Vec<_> = config.gateway.listeners.iter().map(listener).collect();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let max_connections = usize::try_from(config.gateway.max_connections).unwrap_or(usize::MAX);
    (!listeners.is_empty()).then_some(gateway::GatewayConfig {
        workers: config.gateway.workers.unwrap_or(cores),
        max_connections: NonZeroUsize::new(max_connections).unwrap_or(NonZeroUsize::MIN),
        zone: config.gateway.zone.clone(),
        per_source: config.gateway.per_source,
        shedding: config.gateway.shedding,
        drain: config.gateway.drain,
        listeners,
    })
}

fn listener(listener: &config::Listener) -> gateway::ListenerConfig {
    gateway::ListenerConfig {
        name: listener.name.clone(),
        address: listener.address,
        tls: listener.tls.as_ref().map(tls),
        proxy_protocol: listener.proxy_protocol.clone(),
        handshakes: listener.handshakes,
        timeouts: gateway::Timeouts {
            handshake: listener.timeouts.handshake,
            header: listener.timeouts.header,
            idle: listener.timeouts.idle,
        },
    }
}

fn tls(tls: &config::Tls) -> TlsConfig {
    let (client_certificates, clients) = match &tls.clients {
        Clients::Off => (ClientCertificates::Off, None),
        Clients::Optional(trust) => (ClientCertificates::Optional, Some(trust)),
        Clients::Required(trust) => (ClientCertificates::Required, Some(trust)),
    };
    TlsConfig {
        certificates: tls.certificates.clone(),
        authorities: clients.map_or_else(Vec::new, |trust| trust.authorities.clone()),
        client_certificates,
        revocation: clients.and_then(|trust| trust.revocation.clone()),
    }
}
