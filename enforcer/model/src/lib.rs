//! Policies that cannot be wrong: what the loader builds, and the only form that the kernel, the
//! gateway and the controller ever see.
//!
//! Leaf types keep their fields private and are made by parsing; the structures are made by the
//! loader alone, which has checked that every name they mention exists.
#![forbid(unsafe_code)]

pub mod access;
pub mod address;
pub mod api_keys;
pub mod condition;
pub mod destination;
pub mod flow;
pub mod leaf;
pub mod matching;
pub mod quota;
pub mod revocations;
pub mod routing;
pub mod service;
pub mod tokens;

use std::{
    fmt,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroU64},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use enforcer_common::{layout::family, limiter};
use ipnet::IpNet;
use time::OffsetDateTime;

pub use crate::{
    access::{
        Access, Attribute, CertificateNames, ClaimRequirement, ClaimValue, RolesRequirement, TokenContent,
    },
    api_keys::{ApiKey, ApiKeyRequirement, ApiKeys},
    destination::{Destination, FieldChanges, Mirror, PathChange, Redirect, Rewrite, Weighted},
    leaf::{
        ClaimPath, DnsPattern, HostPattern, InterfacePattern, Name, PathMatch, Pattern, Rate, SpiffePattern,
        Template, TrustDomain,
    },
    matching::{Condition, Part, Test},
    quota::{Counted, Exceed, RequestKey, RequestLimit, Tier},
    revocations::{Credential, Revocation, Revocations},
    routing::{Priority, Protocol, Routing, Upgrade},
    service::{
        Balance, Endpoint, HashKey, Health, Outliers, OwnCertificate, Retries, RetryOn, Service, SuccessRate,
        UpstreamLimits, UpstreamTls,
    },
    tokens::{CheckedBy, Dpop, Introspection, Profile},
};

/// Everything that is in force at one time.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    /// In order of name.
    pub packet_policies: Vec<Arc<PacketPolicy>>,
    /// In order of name.
    pub issuers: Vec<Arc<Issuer>>,
    /// In order of name.
    pub api_keys: Vec<Arc<ApiKeys>>,
    /// In order of name.
    pub revocations: Vec<Arc<Revocations>>,
    /// In order of name.
    pub services: Vec<Arc<Service>>,
    /// In order of name.
    pub routes: Vec<Arc<Route>>,
}

/// Where a document stands, for messages, metrics and `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// The line of the document's `metadata.name`, from 1.
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Whether verdicts are carried out or only counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Carried out.
    #[default]
    Enforce,
    /// Counted by the same reasons; nothing is dropped.
    Shadow,
}

/// What becomes of a packet that a rule ends, where the policy is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// It is dropped.
    #[default]
    Drop,
    /// Its sender is told too, within bounds: by a TCP reset, or by an ICMP error.
    Reset,
}

/// Limits and access lists for packets on some interfaces.
#[derive(Clone, Debug)]
pub struct PacketPolicy {
    pub name: Name,
    pub origin: Origin,
    pub mode: Mode,
    /// Of the budget of verified identities; deny entries and limits have their own.
    pub action: Action,
    /// At least one.
    pub interfaces: Vec<InterfacePattern>,
    /// Empty: all traffic of the interfaces.
    pub ports: Vec<Port>,
    /// Sources that this policy never limits.
    pub allow: Vec<IpNet>,
    pub deny: Vec<DenyEntry>,
    /// At most [`enforcer_common::layout::LIMITS_PER_POLICY`].
    pub limits: Vec<PacketLimit>,
    /// The budget that each verified identity has for itself, in packets. `None`: as the first limit by source,
    /// unless a limit is per identity.
    pub verified: Option<Budget>,
    /// What may leave.
    pub egress: Egress,
    /// What is kept for each source that was verified recently.
    pub recent: Option<Recent>,
    /// Whether SYNs are answered with cookies before the stack sees them.
    pub syn: SynDefence,
    /// What becomes of frames that may carry IP which the stack unwraps at another device.
    pub opaque: Opaque,
}

/// What becomes of MPLS, PPPoE and MACsec, in which IP may be that no rule here can be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opaque {
    /// They pass, and are counted.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynDefence {
    /// Never.
    #[default]
    Off,
    /// While more SYNs come than this, and for a while after.
    Auto { above: Rate },
    /// All of them.
    Always,
}

/// A transport protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    pub protocol: Transport,
    /// Never zero.
    pub number: u16,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A denied prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyEntry {
    pub cidr: IpNet,
    pub reason: Option<Arc<str>>,
    /// Afterwards the entry no longer holds.
    pub until: Option<OffsetDateTime>,
    pub action: Action,
    /// Where it stands in its policy's file, from 1.
    pub line: u32,
}

/// What may leave by some interfaces, or from their other ends.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    pub of: EgressOf,
    pub default: EgressDefault,
    pub allow: Vec<EgressAllow>,
    /// Stronger than `allow` wherever both cover a packet.
    pub deny: Vec<EgressDeny>,
    /// At most [`enforcer_common::layout::EGRESS_LIMITS_PER_POLICY`]. Their names are not those of the policy's
    /// other limits.
    pub limits: Vec<EgressLimit>,
}

/// Whose egress is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressOf {
    /// The node's: what leaves by the interface.
    #[default]
    Node,
    /// What the interface's other end sends: a pod, where the interface is the host's end of its veth.
    Pod,
}

/// What becomes of what no entry is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressDefault {
    #[default]
    Allow,
    /// Only replies to those that spoke first, and were let in, leave.
    Deny,
}

/// Destinations that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressAllow {
    pub cidr: IpNet,
    /// Empty: everything.
    pub traffic: Vec<Traffic>,
}

/// Destinations that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressDeny {
    pub entry: DenyEntry,
    /// Empty: everything.
    pub traffic: Vec<Traffic>,
}

/// What is sent: a protocol, and of those with ports all or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    Tcp(Option<NonZeroU16>),
    Udp(Option<NonZeroU16>),
    /// Of both families.
    Icmp,
}

/// A limit on the bytes that leave.
#[derive(Clone, Debug)]
pub struct EgressLimit {
    pub name: Name,
    pub per: EgressKey,
    /// Bits of an IPv4 destination that are one destination: 1 to 32.
    pub prefix_v4: u8,
    /// Bits of an IPv6 destination that are one destination: 1 to 128.
    pub prefix_v6: u8,
    pub budget: Budget,
    /// What the limiter runs with, made from `budget` and the algorithm.
    pub params: limiter::Params,
}

/// Whose packets share one egress limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressKey {
    /// Each destination prefix has its own.
    Destination,
    /// All that leaves under this policy by one interface shares one.
    Interface,
}

/// A rate and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub rate: Rate,
    pub burst: NonZeroU64,
}

/// A share, in packets, that sources keep for a time after they were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    pub budget: Budget,
    /// What the limiter runs with: a token bucket.
    pub params: limiter::Params,
    /// After the source's last verified connection.
    pub lasts: Duration,
}

/// A limit that the kernel keeps.
#[derive(Clone, Debug)]
pub struct PacketLimit {
    pub name: Name,
    pub per: PacketKey,
    /// At least one, and one alone unless it is per source. All levels must admit.
    pub levels: Vec<Level>,
    /// What it is about: bits of [`enforcer_common::layout::traffic`], at least one.
    pub traffic: u8,
    pub count: Count,
    pub budget: Budget,
    /// What a level of `times` one runs with, made from `budget` and the algorithm.
    pub params: limiter::Params,
    pub adaptive: Option<Adaptive>,
    pub action: Action,
}

/// One of the prefixes that a limit per source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Bits of an IPv4 source that are one source: 1 to 32. `None`: no IPv4 source has this level.
    pub ipv4: Option<u8>,
    /// Bits of an IPv6 source that are one source: 1 to 128. `None`: no IPv6 source has this level.
    pub ipv6: Option<u8>,
    /// What the limit's rate and burst are multiplied by.
    pub times: NonZeroU32,
    /// What the limiter runs with.
    pub params: limiter::Params,
}

impl Level {
    /// The families that it is about, as the kernel knows them.
    #[must_use]
    pub fn families(&self) -> u8 {
        self.ipv4.map_or(0, |_| family::IPV4) | self.ipv6.map_or(0, |_| family::IPV6)
    }
}

/// Whose packets share one limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKey {
    /// Each source prefix has its own.
    Source,
    /// All traffic of this policy, on all its interfaces, shares one.
    Service,
    /// All traffic of this policy on one interface shares one.
    Interface,
    /// Each verified identity has its own, over all its connections; strangers have none of it.
    Identity,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Packets,
    Bytes,
    /// New TCP connections, by their SYN, and new UDP flows.
    Connections,
}

/// Lets the controller lower a limit's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Never below this, and this is never above the limit's rate.
    pub floor: Rate,
}

/// Who signs tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub name: Name,
    pub origin: Origin,
    /// The exact `iss` claim.
    pub issuer: Arc<str>,
    pub checked_by: CheckedBy,
    /// One of them must be in `aud`. At least one.
    pub audiences: Vec<Arc<str>>,
    /// Asymmetric only. At least one, unless tokens are introspected.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// The `typ` header values that are accepted, lower case, without `application/`.
    pub types: Vec<Arc<str>>,
    pub profile: Profile,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// The claim that says a client's tier, for limits.
    pub tier: Option<ClaimPath>,
    /// The claims that rules look at: no others of a verified token are kept.
    pub kept: Vec<ClaimPath>,
    pub dpop: Dpop,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub struct Jwks {
    pub source: JwksSource,
    /// How often they are read again.
    pub refresh: Duration,
}

/// Where an issuer's keys are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// A local file.
    File(PathBuf),
    /// `https` anywhere; `http` only on loopback.
    Url {
        url: http::Uri,
        /// PEM file of the authorities that are trusted for it. `None`: the system's.
        ca: Option<PathBuf>,
    },
}

/// Who may send which requests where.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: Name,
    pub origin: Origin,
    pub mode: Mode,
    /// At which listeners it is served. Empty: at all.
    pub listeners: Vec<Name>,
    /// At least one.
    pub hosts: Vec<HostPattern>,
    /// Tried in order; the first that matches decides. At least one; exactly one of a route that passes TLS through.
    pub rules: Vec<Rule>,
    /// `None`: the gateway ends TLS. Else whoever asks for one of the hosts in TLS (SNI) speaks with the service.
    pub passthrough: Option<Passthrough>,
}

/// TLS that services end: the gateway reads the `ClientHello` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Services are told whose connection it is, by the header of version 2 of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// One rule of a route.
#[derive(Clone, Debug)]
pub struct Rule {
    pub path: PathMatch,
    /// Empty: any.
    pub methods: Vec<http::Method>,
    pub require: Requirement,
    pub access: Access,
    pub limits: Vec<RequestLimit>,
    pub destination: Destination,
    /// For the whole exchange up to the response's head.
    pub timeout: Duration,
    /// The largest request body, in bytes.
    pub max_body: u64,
    pub routing: Routing,
}

/// What a request must prove.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every rule has the large one, and reading it costs no further look-up"
)]
pub enum Requirement {
    /// The rule says nothing: nobody is admitted.
    Nobody,
    /// `anonymous: true`: everybody is.
    Anybody,
    /// All that is given must hold; at least one is given.
    Proof {
        mtls: Option<CertificateRequirement>,
        token: Option<TokenRequirement>,
        api_key: Option<Box<ApiKeyRequirement>>,
    },
}

/// Which client certificates do.
#[derive(Clone, Debug)]
pub struct CertificateRequirement {
    /// Authorities, one of which must vouch for it, as listeners name them in `clientCa`. Empty: any of the listener's.
    pub authorities: Vec<Name>,
    /// Empty: any certificate that the listener's authority vouches for.
    pub spiffe: Vec<SpiffePattern>,
    pub names: CertificateNames,
}

/// Which tokens do.
#[derive(Clone, Debug)]
pub struct TokenRequirement {
    pub issuer: Name,
    /// All of them.
    pub scopes: Vec<Arc<str>>,
    pub content: TokenContent,
}

impl PolicySet {
    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &Name) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// The issuer of that name.
    #[must_use]
    pub fn issuer(&self, name: &Name) -> Option<&Arc<Issuer>> {
        self.issuers.iter().find(|issuer| issuer.name == *name)
    }
}

impl Route {
    /// Whether it is served at the listener of that name.
    #[must_use]
    pub fn is_served_at(&self, listener: &Name) -> bool {
        self.listeners.is_empty() || self.listeners.contains(listener)
    }
}

impl Rule {
    /// The pattern by which paths are rewritten, or clients redirected.
    #[must_use]
    pub fn pattern(&self) -> Option<&Pattern> {
        let change = match &self.destination {
            Destination::Redirect(redirect) => &redirect.path,
            Destination::Services(_) => &self.routing.rewrite.path,
        };
        match change {
            Some(PathChange::Regex { pattern, .. }) => Some(pattern),
            _ => None,
        }
    }
}

impl PacketPolicy {
    /// The names of its limits, and of those on what leaves, each in order:
    /// [`enforcer_common::verdict::Reason::limit_place`] says which of them a packet is over.
    #[must_use]
    pub fn limit_names(&self) -> [Vec<&Name>; 2] {
        [
            self.limits.iter().map(|limit| &limit.name).collect(),
            self.egress.limits.iter().map(|limit| &limit.name).collect(),
        ]
    }

    /// Whether a deny entry for `address` is in force at `now`.
    #[must_use]
    pub fn denies(&self, address: IpAddr, now: OffsetDateTime) -> Option<&DenyEntry> {
        self.deny
            .iter()
            .filter(|entry| entry.until.is_none_or(|until| until > now))
            .filter(|entry| entry.cidr.contains(&address))
            .max_by_key(|entry| entry.cidr.prefix_len())
    }
}
