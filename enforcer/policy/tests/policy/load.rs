//! What is written well loads as what was meant.

use std::{fs, num::NonZeroU64, path::PathBuf, time::Duration};

use enforcer_common::{
    layout::traffic,
    limiter::{Algorithm, Params},
};
use enforcer_model::{
    Balance, CheckedBy, Count, Exceed, HostPattern, JwksSource, Mode, PacketKey, PathMatch, PolicySet,
    RequestKey, Requirement, SynDefence, Transport,
};
use tempfile::TempDir;

/// Loads one file with that text, expecting no problem at all.
fn load(yaml: &str) -> PolicySet {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, yaml).unwrap();
    let loaded = enforcer_policy::load(&[file]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.set
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const DESIGN: &str = r#"
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: edge}
spec:
  mode: enforce                    # or shadow
  interfaces: [eth0, "veth*"]
  ports: [tcp/443]                 # none: all traffic
  allow: [10.96.0.0/12]            # never limited
  deny:
    - {cidr: 198.51.100.0/24, reason: "abuse 4711", until: "2027-01-01T00:00:00Z"}
  limits:
    - name: per-client
      per: source                  # source | service | interface
      prefix: {ipv4: 32, ipv6: 64}
      count: packets               # packets | bytes | connections
      algorithm: token-bucket
      rate: 20000/s
      burst: 40000
      adaptive: {floor: 2000/s}
  syn: {cookies: auto}
---
apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {name: corp}
spec:
  issuer: https://idp.example.com
  jwks: {url: https://idp.example.com/jwks, refresh: 10m}
  audiences: [orders]
  algorithms: [ES256]
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {name: orders}
spec:
  endpoints: ["http://10.0.0.7:8080", "http://10.0.0.8:8080"]
  balance: least-request
  health: {path: /healthz, interval: 5s}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [api.example.com]
  rules:
    - match: {path: {prefix: /v1/orders}, methods: [GET]}
      require:
        mtls: {spiffe: ["spiffe://example.com/ns/shop/sa/*"]}
        token: {issuer: corp, scopes: ["orders:read"]}
      limits:
        - {per: [token.sub], algorithm: sliding-window, rate: 100/m, exceed: {queue: 200ms}}
      service: orders
      timeout: 2s
"#;

#[test]
fn the_sample_packet_policy_means_what_it_says() {
    let set = load(DESIGN);
    let edge = &set.packet_policies[0];
    assert_eq!(
        (edge.name.as_str(), edge.mode, edge.origin.line),
        ("edge", Mode::Enforce, 4)
    );
    assert_eq!(edge.interfaces[1].as_str(), "veth*");
    assert_eq!(
        (edge.ports[0].protocol, edge.ports[0].number),
        (Transport::Tcp, 443)
    );
    assert_eq!(edge.allow, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!(edge.deny[0].reason.as_deref(), Some("abuse 4711"));
    assert_eq!(edge.deny[0].until.unwrap().unix_timestamp(), 1_798_761_600);
    let limit = &edge.limits[0];
    assert_eq!((limit.per, limit.count), (PacketKey::Source, Count::Packets));
    let [level] = limit.levels[..] else {
        panic!("{:?}", limit.levels)
    };
    assert_eq!(
        (level.ipv4, level.ipv6, level.times.get()),
        (Some(32), Some(64), 1)
    );
    assert_eq!(level.params, limit.params);
    assert_eq!((limit.traffic, edge.recent), (traffic::ALL, None));
    assert_eq!(limit.budget.rate.to_string(), "20000/s");
    assert_eq!(limit.budget.burst, NonZeroU64::new(40_000).unwrap());
    assert_eq!(limit.adaptive.unwrap().floor.to_string(), "2000/s");
    assert!(matches!(edge.syn, SynDefence::Auto { above } if above.to_string() == "1000/s"));
}

#[test]
fn the_sample_issuer_and_service_mean_what_they_say() {
    let set = load(DESIGN);
    let issuer = &set.issuers[0];
    let CheckedBy::Keys(jwks) = &issuer.checked_by else {
        panic!("{:?}", issuer.checked_by);
    };
    assert_eq!(jwks.refresh, Duration::from_secs(600));
    assert!(
        matches!(&jwks.source, JwksSource::Url { url, ca: None } if url.host() == Some("idp.example.com"))
    );
    assert_eq!(issuer.algorithms, [jsonwebtoken::Algorithm::ES256]);
    assert_eq!(*issuer.types[0], *"at+jwt");
    assert_eq!(issuer.leeway, Duration::from_secs(60));

    let service = &set.services[0];
    assert_eq!(
        (service.endpoints.len(), service.balance.clone()),
        (2, Balance::LeastRequest)
    );
    assert_eq!(service.endpoints[0].authority, "10.0.0.7:8080");
    let health = service.health.as_ref().unwrap();
    assert_eq!(health.timeout, Duration::from_secs(1));
    assert_eq!((health.healthy_after, health.unhealthy_after), (2, 3));
    assert_eq!(service.connect_timeout, Duration::from_secs(1));
}

#[test]
fn the_sample_route_means_what_it_says() {
    let set = load(DESIGN);
    let rule = &set.routes[0].rules[0];
    assert_eq!(
        set.routes[0].hosts,
        [HostPattern::Exact("api.example.com".into())]
    );
    assert_eq!(rule.path, PathMatch::Prefix("/v1/orders".into()));
    assert_eq!(rule.methods, [http::Method::GET]);
    let Requirement::Proof {
        mtls: Some(mtls),
        token: Some(token),
        api_key: None,
    } = &rule.require
    else {
        panic!("{:?}", rule.require);
    };
    assert!(mtls.spiffe[0].matches("spiffe://example.com/ns/shop/sa/web"));
    assert_eq!(
        (token.issuer.as_str(), &*token.scopes[0]),
        ("corp", "orders:read")
    );
    let limit = &rule.limits[0];
    assert_eq!(
        (&*limit.name, &*limit.per),
        ("orders-0-0", &[RequestKey::TokenSubject][..])
    );
    assert_eq!(limit.exceed, Exceed::Queue(Duration::from_millis(200)));
    assert_eq!((rule.timeout, rule.max_body), (Duration::from_secs(2), 1 << 20));
}

#[test]
fn defaults_are_what_the_reference_says() {
    let set = load(
        "
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: small, namespace: kube-system, labels: {app: x}, annotations: {a: b}}
spec:
  interfaces: eth0
  limits:
    - {rate: 90/m}
    - {count: bytes, rate: 8kbit/s}
    - {count: bytes, rate: 10Mbit/s, algorithm: fixed-window}
  verified: {rate: 10/s}
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {name: s}
spec: {endpoints: ['http://[::1]:80/']}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {name: r}
spec:
  hosts: '*'
  rules:
    - {service: s, require: {mtls: {}}, limits: [{per: certificate, rate: 30/m}]}
",
    );
    let policy = &set.packet_policies[0];
    assert_eq!((policy.mode, policy.ports.len()), (Mode::Enforce, 0));
    assert_eq!(policy.limits[0].name.as_str(), "limit-1");
    // One second of 90 a minute, rounded up.
    assert_eq!(policy.limits[0].budget.burst.get(), 2);
    // At least one large packet.
    assert_eq!(policy.limits[1].budget.burst.get(), 65_536);
    assert_eq!(policy.limits[2].budget.burst.get(), 1_250_000);
    assert_eq!(policy.verified.unwrap().burst.get(), 10);
    let rule = &set.routes[0].rules[0];
    assert_eq!(rule.path, PathMatch::Prefix("/".into()));
    assert!(rule.methods.is_empty());
    assert_eq!((rule.timeout, rule.max_body), (Duration::from_secs(15), 1 << 20));
    assert_eq!(rule.limits[0].budget.burst.get(), 30);
    assert_eq!(rule.limits[0].exceed, Exceed::Reject);
    assert!(set.services[0].health.is_none());
}

#[test]
fn anchors_aliases_and_merges_are_read() {
    let set = load(
        "
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: p}
spec:
  interfaces: &nics [eth0, eth1]
  limits:
    - &base {rate: 5/s, burst: 7}
    - {<<: *base, count: connections}
---
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: q}
spec: {interfaces: [eth2], deny: [&net 192.0.2.0/24], egress: {deny: [*net]}}
",
    );
    let limits = &set.packet_policies[0].limits;
    assert_eq!(
        (limits[1].count, limits[1].budget),
        (Count::Connections, limits[0].budget)
    );
    let egress = set.packet_policies[1].egress.deny.iter();
    let egress: Vec<_> = egress.map(|deny| deny.entry.clone()).collect();
    assert_eq!(egress, set.packet_policies[1].deny);
}

#[test]
fn the_ready_to_use_policies_are_one_set() {
    let directory = repository().join("policies");
    let loaded = enforcer_policy::load(&[directory]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.files.len(), 5);
    let set = &loaded.set;
    assert_eq!((set.packet_policies.len(), set.issuers.len()), (2, 1));
    assert_eq!((set.services.len(), set.routes.len()), (2, 2));
    assert_eq!(set.packet_policies[1].mode, Mode::Shadow);
    assert_eq!(set.packet_policies[1].egress.deny.len(), 1);
}

#[test]
fn directories_stand_for_their_visible_yaml_files_in_order() {
    let directory = TempDir::new().unwrap();
    let service = |name: &str| {
        format!(
            "{{apiVersion: enforcer.dev/v1, kind: Service, metadata: {{name: {name}}}, spec: {{endpoints: ['http://[::1]:80']}}}}\n"
        )
    };
    for (file, name) in [
        ("b.yaml", "b"),
        ("a.yml", "a"),
        (".hidden.yaml", "h"),
        ("..data.yaml", "d"),
    ] {
        fs::write(directory.path().join(file), service(name)).unwrap();
    }
    fs::write(directory.path().join("README.md"), "no policy: [").unwrap();
    fs::create_dir(directory.path().join("deeper")).unwrap();
    let loaded =
        enforcer_policy::load(&[directory.path().to_owned()]).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = loaded
        .set
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        loaded.files,
        [directory.path().join("a.yml"), directory.path().join("b.yaml")]
    );
}

#[test]
fn the_digest_follows_names_and_contents() {
    let directory = TempDir::new().unwrap();
    let digest = || {
        enforcer_policy::load(&[directory.path().to_owned()])
            .unwrap()
            .digest
    };
    let empty = digest();
    fs::write(directory.path().join("a.yaml"), "# nothing\n").unwrap();
    let one = digest();
    assert_eq!(one, digest());
    fs::write(directory.path().join("a.yaml"), "# nothing more\n").unwrap();
    let other = digest();
    fs::rename(directory.path().join("a.yaml"), directory.path().join("b.yaml")).unwrap();
    let renamed = digest();
    let all = [&empty, &one, &other, &renamed];
    assert!(
        all.iter()
            .enumerate()
            .all(|(i, a)| all[..i].iter().all(|b| a != b)),
        "{all:?}"
    );
    assert_eq!(one.len(), 64);
}

/// A packet policy with that `spec`.
fn packet_policy(spec: &str) -> PolicySet {
    load(&format!(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: p}}\nspec: {{interfaces: eth0, {spec}}}\n"
    ))
}

#[test]
fn a_limit_has_a_level_for_each_prefix() {
    let set = packet_policy(
        "limits: [{rate: 10/s, burst: 5, prefix: [{ipv6: 56}, {ipv4: 24, times: 8}, {ipv4: 16, ipv6: 48, times: 64}]}]",
    );
    let limit = &set.packet_policies[0].limits[0];
    let levels: Vec<_> = limit
        .levels
        .iter()
        .map(|level| (level.ipv4, level.ipv6, level.times.get()))
        .collect();
    // The first has the default of the family that it leaves out; the others are not about it.
    let expected = [
        (Some(32), Some(56), 1),
        (Some(24), None, 8),
        (Some(16), Some(48), 64),
    ];
    assert_eq!(levels, expected);
    let bucket =
        |times: u64| Params::new(Algorithm::TokenBucket, 10 * times, 1_000_000_000, 5 * times).unwrap();
    let params: Vec<_> = limit.levels.iter().map(|level| level.params).collect();
    assert_eq!(params, [bucket(1), bucket(8), bucket(64)]);
    let set =
        packet_policy("limits: [{rate: 10/s, algorithm: sliding-window, prefix: {ipv4: 24, times: 3}}]");
    let level = &set.packet_policies[0].limits[0].levels[0];
    assert_eq!(
        (level.ipv4, level.ipv6, level.params.burst()),
        (Some(24), Some(64), 30)
    );
}

#[test]
fn a_limit_is_about_the_traffic_that_it_names() {
    for (written, expected) in [
        ("tcp-syn", traffic::TCP_SYN),
        ("tcp", traffic::TCP_SYN | traffic::TCP_OTHER),
        (
            "[tcp-syn, udp, icmp]",
            traffic::TCP_SYN | traffic::UDP | traffic::ICMP,
        ),
        ("[tcp, udp, icmp, other]", traffic::ALL),
    ] {
        let set = packet_policy(&format!("limits: [{{rate: 10/s, traffic: {written}}}]"));
        assert_eq!(set.packet_policies[0].limits[0].traffic, expected, "{written}");
    }
}

#[test]
fn who_speaks_of_verified_identities_keeps_a_share_for_recent_ones() {
    let share = |spec: &str| {
        let set = packet_policy(spec);
        let policy = &set.packet_policies[0];
        let recent = policy.recent.map(|recent| {
            (
                recent.budget.rate.to_string(),
                recent.budget.burst.get(),
                recent.lasts.as_secs(),
            )
        });
        (policy.verified.map(|budget| budget.burst.get()), recent)
    };
    let default = Some(("50/s".to_owned(), 100, 600));
    assert_eq!(share("limits: [{rate: 1/s}]"), (None, None));
    assert_eq!(share("verified: {rate: 7/s}"), (Some(7), default.clone()));
    assert_eq!(share("limits: [{per: identity, rate: 1/s}]"), (None, default));
    assert_eq!(share("verified: {rate: 7/s, recent: off}"), (Some(7), None));
    assert_eq!(
        share("limits: [{per: identity, rate: 1/s}], verified: {recent: off}"),
        (None, None)
    );
    assert_eq!(
        share("verified: {recent: {rate: 20/m, burst: 9, for: 1h}}"),
        (None, Some(("20/m".to_owned(), 9, 3_600)))
    );
}
