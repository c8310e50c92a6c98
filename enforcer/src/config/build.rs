//! Judges the configuration as it is written.

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use super::{
    Adapt, Admin, AuthFailures, Config, Ends, Gateway, Kernel, Listener, Log, LogFormat, Metrics, OnStop,
    PINS, PerSource, Shedding, SketchMemory, Timeouts, XdpMode, audit, authorities, handshakes,
    proxy_protocol::proxy_protocol, raw, tls,
};
use enforcer_model::leaf::{Name, Rate, cidr, quantity};
use enforcer_model::quota::source_buckets;
use enforcer_policy::{
    judge::{duration_within, service::parse_zone},
    secrets::SecretsDir,
    yaml::place::{Place, Unique, parsed},
};

/// Where the admin interface is unless configured.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9600);

/// The most listeners.
const MAX_LISTENERS: usize = 64;

/// Where a path or a duration may be left out.
const OFF: &str = "off";

/// How long limits hold without a sign of the agent, unless configured, and how many beats that is at least.
const DEAD_MAN: Duration = Duration::from_secs(30);
const BEATS: u32 = 3;

/// How many times as many credentials of a source may be refused as may be forged, unless configured.
const ATTEMPTS: NonZeroU64 = NonZeroU64::MIN.saturating_add(59);

/// A millisecond, the shortest of most durations.
const MILLISECOND: Duration = Duration::from_millis(1);

/// A day, the longest.
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn config(raw: raw::Config, at: &Place<'_>) -> Option<Config> {
    let policies = at.required("policies", raw.policies, |list, place| {
        if list.0.is_empty() && place.items().is_empty() {
            place.error("the list is empty: name a file or directory, like /etc/enforcer/policies");
        }
        Some(at.each("policies", list.0, |(text, at)| existing(&text, &at)))
    });
    let admin = at.optional("admin", raw.admin, |admin, at| {
        Some(at.optional("address", admin.address, |text, at| admin_address(&text, at)))
    });
    let admin = Admin {
        address: admin.flatten().unwrap_or(ADMIN),
    };
    let metrics = at.optional("metrics", raw.metrics, |raw, at| {
        let address = at.required("address", raw.address, |text, at| address(&text, at))?;
        if address == admin.address {
            at.field("address").error_with(
                format!("{address} is the admin address, which serves metrics too"),
                "write another port, or leave `metrics` out",
            );
        }
        Some(Metrics { address })
    });
    let runtime_dir = at.optional("runtimeDir", raw.runtime_dir, |text, at| path(&text, at));
    let runtime_dir = runtime_dir.unwrap_or_else(|| PathBuf::from("/run/enforcer"));
    let state_dir = at.optional("stateDir", raw.state_dir, |text, at| path(&text, at));
    let secrets = at.optional("secretsDir", raw.secrets_dir, |text, at| {
        let path = path(&text, at)?;
        Some(SecretsDir { path, strict: true })
    });
    let log = raw.log.unwrap_or_default();
    let adapt = adapt(raw.adapt.unwrap_or_default(), &at.field("adapt"));
    let kernel = kernel(
        raw.kernel.unwrap_or_default(),
        adapt.interval,
        &at.field("kernel"),
    );
    let gateway = gateway(raw.gateway.unwrap_or_default(), &at.field("gateway"));
    for (position, listener) in gateway.listeners.iter().enumerate() {
        let others = [
            ("admin", Some(admin.address)),
            ("metrics", metrics.map(|metrics| metrics.address)),
        ];
        let taken = others
            .into_iter()
            .find(|(_, other)| other.is_some_and(|other| collide(other, listener.address)));
        if let Some((what, Some(other))) = taken {
            let items = at.field("gateway").field("listeners").items();
            let place = items
                .get(position)
                .map_or_else(|| at.clone(), |item| item.field("address"));
            place.error_with(
                format!(
                    "{} and `{what}.address` {other} are the same port",
                    listener.address
                ),
                "write another port",
            );
        }
    }
    if !kernel.enabled && gateway.auth_failures.is_some() {
        at.field("gateway").field("authFailures").warning(
            "sources are denied in the kernel, and `kernel.enabled` is false",
            "leave `authFailures` out, or enable the kernel half",
        );
    }
    Some(Config {
        policies: policies?,
        admin,
        metrics,
        state_dir: state_dir.unwrap_or_else(|| runtime_dir.clone()),
        runtime_dir,
        secrets: secrets.unwrap_or_default(),
        log: self::log(&log),
        kernel,
        gateway,
        adapt,
        audit: at.optional("audit", raw.audit, audit::audit),
        warnings: Vec::new(),
    })
}

/// Whether two listening sockets get into each other's way. `::` is taken for every address of both families.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || is_any(one) || is_any(other))
}

fn log(raw: &raw::Log) -> Log {
    let level = match raw.level {
        Some(raw::Level::Trace) => tracing::Level::TRACE,
        Some(raw::Level::Debug) => tracing::Level::DEBUG,
        Some(raw::Level::Info) | None => tracing::Level::INFO,
        Some(raw::Level::Warn) => tracing::Level::WARN,
        Some(raw::Level::Error) => tracing::Level::ERROR,
    };
    let format = match raw.format {
        Some(raw::Format::Json) | None => LogFormat::Json,
        Some(raw::Format::Text) => LogFormat::Text,
    };
    Log { level, format }
}

fn kernel(raw: raw::Kernel, beat: Duration, at: &Place<'_>) -> Kernel {
    let xdp = match raw.xdp {
        Some(raw::Xdp::Auto) | None => XdpMode::Auto,
        Some(raw::Xdp::Native) => XdpMode::Native,
        Some(raw::Xdp::Generic) => XdpMode::Generic,
    };
    let management = at.each("management", raw.management.unwrap_or_default(), |(text, at)| {
        let net = parsed(cidr::parse)(text, &at)?;
        if net.prefix_len() == 0 {
            at.error(
                "this is every source, so that nothing would ever be dropped: name the operators' networks",
            );
        }
        Some(net)
    });
    let sketch_memory = at.optional("sketchMemory", raw.sketch_memory, |size, at| {
        let bytes = parsed(quantity::parse_size)(&size.0, at)?;
        let memory = SketchMemory::new(bytes);
        if memory.is_none() {
            let near = bytes.clamp(1 << 16, 1 << 26).next_power_of_two();
            at.error_with(
                format!("`{}` is not a power of two from 64KiB to 64MiB", size.0),
                format!("the next is {}KiB", near >> 10),
            );
        }
        memory
    });
    let max_flows = at.optional("maxFlows", raw.max_flows, |count, at| {
        within(count, 1, 1 << 24, at)
    });
    let pins = at.optional("pins", raw.pins, |text, at| {
        if text == OFF {
            return Some(None);
        }
        let path = path(&text, at)?;
        // The kernel refuses dots in names on its BPF file system.
        if path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().contains('.'))
        {
            at.error(format!(
                "`{text}` cannot be a folder of pins: write a path like {PINS}, or off"
            ));
            return None;
        }
        Some(Some(path))
    });
    let dead_man = at.optional("deadMan", raw.dead_man, |text, at| dead_man(text, beat, at));
    Kernel {
        pins: pins.unwrap_or_else(|| Some(PathBuf::from(PINS))),
        on_stop: match raw.on_stop {
            Some(raw::OnStop::Keep) | None => OnStop::Keep,
            Some(raw::OnStop::Detach) => OnStop::Detach,
        },
        dead_man: dead_man.unwrap_or_else(|| Some(DEAD_MAN.max(beat * BEATS))),
        dead_man_keeps_denials: raw.dead_man_keeps_denials.unwrap_or(true),
        dead_man_keeps_cookies: raw.dead_man_keeps_cookies.unwrap_or(false),
        enabled: raw.enabled.unwrap_or(true),
        xdp,
        management,
        sketch_memory: sketch_memory.unwrap_or_default(),
        max_flows: max_flows.unwrap_or(65_536),
    }
}

/// How long limits hold without a beat: a few beats at least, so that one that is late does no harm.
fn dead_man(
    text: enforcer_policy::raw::Duration,
    beat: Duration,
    at: &Place<'_>,
) -> Option<Option<Duration>> {
    if text.as_ref() == OFF {
        return Some(None);
    }
    let duration = duration_within(Duration::from_secs(1), DAY)(text, at)?;
    if duration < beat * BEATS {
        at.error_with(
            format!("the agent gives a sign of life every {beat:?} (`adapt.interval`)"),
            format!("write {BEATS} times that at least, or off"),
        );
        return None;
    }
    Some(Some(duration))
}

fn gateway(raw: raw::Gateway, at: &Place<'_>) -> Gateway {
    let workers = at.optional("workers", raw.workers, |count, at| {
        within(count, 1, 1024, at).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?))
    });
    let drain = at.optional(
        "drain",
        raw.drain,
        duration_within(Duration::ZERO, Duration::from_secs(3600)),
    );
    let max_connections = at.optional("maxConnections", raw.max_connections, |count, at| {
        within(count, 1, 10_000_000, at)
    });
    let zone = at.optional("zone", raw.zone, parsed(parse_zone));
    let max_connections = max_connections.unwrap_or(10_000);
    let mut per_source = per_source(
        raw.per_source.unwrap_or_default(),
        max_connections,
        &at.field("perSource"),
    );
    let shedding = at.optional("shedding", raw.shedding, |raw, at| Some(shedding(raw, at)));
    let list = raw.listeners.unwrap_or_default();
    if list.len() > MAX_LISTENERS {
        at.field("listeners")
            .error(format!("there are at most {MAX_LISTENERS} listeners"));
    }
    let (mut names, mut addresses) = (Unique::default(), Unique::default());
    let mut places = Vec::new();
    let mut listeners = at.each("listeners", list, |(raw, at)| {
        let listener = listener(raw, &at)?;
        names.claim(listener.name.clone(), &at, |first| {
            format!(
                "the listener at {first} is named `{}` too: give one of them another name",
                listener.name
            )
        });
        addresses.claim(listener.address, &at.field("address"), |first| {
            format!(
                "the listener at {first} has the address {} already",
                listener.address
            )
        });
        places.push(at);
        Some(listener)
    });
    authorities::across(&mut listeners, &places);
    let auth_failures = at.optional("authFailures", raw.auth_failures, auth_failures);
    per_source.attempts = auth_failures.map(|limits| limits.attempts);
    Gateway {
        workers,
        drain: drain.unwrap_or(Duration::from_secs(30)),
        max_connections,
        per_source,
        shedding: shedding.unwrap_or_default(),
        zone,
        listeners,
        auth_failures,
    }
}

/// One source does not get all connections, unless it is written.
fn per_source(raw: raw::PerSource, max_connections: u32, at: &Place<'_>) -> PerSource {
    let connections = at.optional("connections", raw.connections, |count, at| {
        if count > max_connections {
            at.error(format!(
                "there are only {max_connections} connections (`gateway.maxConnections`)"
            ));
            return None;
        }
        within(count, 1, max_connections, at)
    });
    let connections = connections.unwrap_or(max_connections.div_ceil(2));
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    PerSource {
        connections: NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN),
        handshakes: at
            .optional("handshakes", raw.handshakes, handshakes::budget)
            .or_else(handshakes::default_budget),
        attempts: None,
    }
}

/// Normal requests are not refused before those of low priority.
fn shedding(raw: raw::Shedding, at: &Place<'_>) -> Shedding {
    let within = || duration_within(Duration::from_millis(5), Duration::from_secs(60));
    let low = at.optional("low", raw.low, within());
    let normal = at.optional("normal", raw.normal, within());
    if let (Some(low), Some(normal)) = (low, normal)
        && normal < low
    {
        at.field("normal").error_with(
            "requests of normal priority would be refused before those of low priority",
            "write a time that is not shorter than that of `low`",
        );
    }
    Shedding {
        low: low.or(normal),
        normal,
    }
}

fn listener(raw: raw::Listener, at: &Place<'_>) -> Option<Listener> {
    let name = at.required("name", raw.name, parsed(str::parse::<Name>));
    let address = at.required("address", raw.address, |text, at| address(&text, at));
    let plain = raw.tls.is_none() && !at.mentions("tls");
    if let Some(address) = address.filter(|address| plain && !address.ip().is_loopback()) {
        at.error_below(
            "address",
            at.field("address").position(),
            format!("{address} can be reached from elsewhere, and the listener has no `tls`"),
            Some("add `tls: {certificate: …, key: …}`, or listen on 127.0.0.1".to_owned()),
        );
    }
    let tls = at.optional("tls", raw.tls, tls::tls);
    let proxy_protocol = at.optional("proxyProtocol", raw.proxy_protocol, proxy_protocol);
    if plain && raw.handshakes.is_some() {
        at.field("handshakes").error_with(
            "handshakes are those of TLS, and the listener has no `tls`",
            "leave `handshakes` out, or add `tls`",
        );
    }
    let handshakes = at.optional("handshakes", raw.handshakes, handshakes::handshakes);
    let timeouts = timeouts(raw.timeouts.unwrap_or_default(), &at.field("timeouts"));
    Some(Listener {
        name: name?,
        address: address?,
        tls,
        proxy_protocol,
        handshakes: handshakes.unwrap_or_default(),
        timeouts,
    })
}

fn timeouts(raw: raw::Timeouts, at: &Place<'_>) -> Timeouts {
    let range = || duration_within(MILLISECOND, DAY);
    let seconds = Duration::from_secs;
    Timeouts {
        handshake: at
            .optional("handshake", raw.handshake, range())
            .unwrap_or(seconds(5)),
        header: at.optional("header", raw.header, range()).unwrap_or(seconds(10)),
        idle: at.optional("idle", raw.idle, range()).unwrap_or(seconds(60)),
    }
}

fn auth_failures(raw: raw::AuthFailures, at: &Place<'_>) -> Option<AuthFailures> {
    let rate = at.required("rate", raw.rate, |text, at| {
        handshakes::rate_of(&text, "failures", at)
    });
    let range = duration_within(Duration::from_secs(1), 30 * DAY);
    let deny_for = at.required("denyFor", raw.deny_for, range);
    let attempts = at.optional("attempts", raw.attempts, |text, at| {
        handshakes::rate_of(&text, "attempts", at)
    });
    let rate = rate?;
    let attempts = attempts.or_else(|| {
        let amount = rate.amount().saturating_mul(ATTEMPTS);
        Rate::new(amount, rate.period())
    });
    let attempts = attempts.filter(|attempts| source_buckets(*attempts, attempts.amount()).is_ok());
    if attempts.is_none() {
        at.error("no limiter keeps that rate of attempts: write one like 600/m");
    }
    if attempts.is_some_and(|attempts| rate.exceeds(attempts)) {
        at.field("attempts").error_with(
            "every failure is an attempt, and fewer attempts are admitted than failures",
            "write a rate that is higher than `rate`, or leave `attempts` out",
        );
    }
    Some(AuthFailures {
        rate,
        deny_for: deny_for?,
        ends: match raw.ends {
            Some(raw::Ends::Gateway) | None => Ends::Gateway,
            Some(raw::Ends::All) => Ends::All,
        },
        attempts: attempts?,
    })
}

fn adapt(raw: raw::Adapt, at: &Place<'_>) -> Adapt {
    let interval = duration_within(Duration::from_millis(100), Duration::from_secs(60));
    let latency = duration_within(MILLISECOND, Duration::from_secs(60));
    Adapt {
        interval: at
            .optional("interval", raw.interval, interval)
            .unwrap_or(Duration::from_secs(1)),
        latency: at
            .optional("latency", raw.latency, latency)
            .unwrap_or(Duration::from_millis(250)),
    }
}

pub(super) fn within(count: u32, least: u32, most: u32, at: &Place<'_>) -> Option<u32> {
    if (least..=most).contains(&count) {
        return Some(count);
    }
    at.error(format!("{count} is out of range: write {least} to {most}"));
    None
}

fn address(text: &str, at: &Place<'_>) -> Option<SocketAddr> {
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let example = "an address and a port, like 127.0.0.1:9600 or [::1]:9600";
            at.error(format!("`{text}` is no socket address: write {example}"));
            None
        }
    }
}

/// The admin address says who talks to the node and who they are, without TLS: beyond loopback that is for everybody
/// in between.
fn admin_address(text: &str, at: &Place<'_>) -> Option<SocketAddr> {
    let address = address(text, at)?;
    if !address.ip().to_canonical().is_loopback() {
        at.outdated(
            format!("{address} is reached from other machines, and the admin address has no TLS"),
            "keep it on loopback. For Prometheus, write `metrics: {address: ADDRESS:PORT}`, which serves metrics \
             and nothing else. The commands use the socket in `runtimeDir`. This version still starts, and answers \
             all but health and metrics there only to who shows the token",
        );
    }
    Some(address)
}

pub(super) fn path(text: &str, at: &Place<'_>) -> Option<PathBuf> {
    if text.is_empty() {
        at.error("an empty path names nothing");
        return None;
    }
    Some(at.beside(text))
}

fn existing(text: &str, at: &Place<'_>) -> Option<PathBuf> {
    let path = path(text, at)?;
    if path.exists() {
        return Some(path);
    }
    at.error_with(format!("{} does not exist", path.display()), BESIDE);
    None
}

pub(super) fn existing_file(text: &str, at: &Place<'_>) -> Option<PathBuf> {
    let path = path(text, at)?;
    if path.is_file() {
        return Some(path);
    }
    let what = if path.exists() {
        "is no file"
    } else {
        "does not exist"
    };
    at.error_with(format!("{} {what}", path.display()), BESIDE);
    None
}

/// How paths are read.
const BESIDE: &str = "paths are as seen from the directory of the configuration file";
