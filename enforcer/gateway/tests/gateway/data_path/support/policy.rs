//! Policies as the loader would make them.

use std::{net::SocketAddr, num::NonZeroU16, path::PathBuf, sync::Arc, time::Duration};

use enforcer_model::{
    Access, Balance, CertificateNames, CertificateRequirement, Destination, Endpoint, HostPattern, Mode,
    Name, Origin, PathMatch, PolicySet, Protocol, Requirement, Retries, Route, Routing, Rule, Service,
    TokenContent, TokenRequirement, UpstreamLimits, UpstreamTls,
};

use super::pki::HOST;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn origin() -> Origin {
    Origin {
        file: PathBuf::from("test.yaml"),
        line: 1,
    }
}

/// A rule for all paths that admits everybody.
pub(crate) fn open_rule() -> Rule {
    Rule {
        path: PathMatch::Prefix("/".into()),
        methods: Vec::new(),
        require: Requirement::Anybody,
        access: Access::default(),
        limits: Vec::new(),
        destination: Destination::to(name("orders")),
        timeout: Duration::from_secs(20),
        max_body: 16 * 1024 * 1024,
        routing: Routing::default(),
    }
}

/// A client certificate and nothing else; any, if `spiffe` is empty.
pub(crate) fn certificate(spiffe: &[&str]) -> Requirement {
    let spiffe = spiffe.iter().map(|pattern| pattern.parse().unwrap()).collect();
    Requirement::Proof {
        mtls: Some(CertificateRequirement {
            authorities: Vec::new(),
            spiffe,
            names: CertificateNames::default(),
        }),
        token: None,
        api_key: None,
    }
}

/// A certificate with the identity, and a token of the issuer with the scope.
pub(crate) fn certificate_and_token(spiffe: &str, issuer: &str, scope: &str) -> Requirement {
    let mtls = match certificate(&[spiffe]) {
        Requirement::Proof { mtls, .. } => mtls,
        other => unreachable!("{other:?}"),
    };
    let token = Some(TokenRequirement {
        issuer: name(issuer),
        scopes: vec![scope.into()],
        content: TokenContent::default(),
    });
    Requirement::Proof {
        mtls,
        token,
        api_key: None,
    }
}

/// An endpoint of weight one, in no zone.
pub(crate) fn endpoint(authority: &str) -> Endpoint {
    Endpoint {
        authority: authority.parse().unwrap(),
        https: false,
        weight: NonZeroU16::MIN,
        zone: None,
    }
}

pub(crate) fn service(endpoints: &[SocketAddr]) -> Service {
    Service {
        name: name("orders"),
        origin: origin(),
        endpoints: endpoints
            .iter()
            .map(|address| endpoint(&address.to_string()))
            .collect(),
        balance: Balance::LeastRequest,
        health: None,
        connect_timeout: Duration::from_secs(5),
        tls: UpstreamTls::default(),
        limits: UpstreamLimits::default(),
        retries: Retries::default(),
        outliers: None,
        slow_start: None,
        panic_percent: 0,
        protocol: Protocol::Http1,
    }
}

/// One route to one service.
pub(crate) fn set(rules: Vec<Rule>, service: Service) -> PolicySet {
    let route = Route {
        name: name("main"),
        origin: origin(),
        mode: Mode::Enforce,
        listeners: Vec::new(),
        hosts: vec![HostPattern::Exact(HOST.into())],
        rules,
        passthrough: None,
    };
    PolicySet {
        routes: vec![Arc::new(route)],
        services: vec![Arc::new(service)],
        ..PolicySet::default()
    }
}

/// Everybody may do everything.
pub(crate) fn open(endpoints: &[SocketAddr]) -> PolicySet {
    set(vec![open_rule()], service(endpoints))
}
