//! The admin address while much happens at once: what is asked is answered in time, whatever the agent is at.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use lab::{
    agent::ADMIN,
    client::{Ask, Client},
    demo::setup::Stage,
    resident::Resident,
};

use crate::setting::{EDGE, POLL, Setting, generation, packet_policy};

const CLIENTS: u64 = 32;
/// Each takes and gives back this many prefixes and keys, so that the agent's tables stay as large.
const PREFIXES: u64 = 64;
const TOKEN: HeaderName = HeaderName::from_static("x-enforcer-token");
/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, one after the other.
fn asks(turn: u64) -> Ask {
    let which = turn % PREFIXES;
    match turn % 12 {
        0 | 6 => Ask::get("/v1/status"),
        1 | 7 => Ask::get(&format!("/v1/explain?address=192.0.2.{which}")),
        2 => Ask::get("/metrics"),
        3 => Ask::get("/healthz"),
        4 => Ask::get("/readyz"),
        5 => Ask::get("/v1/denials"),
        8 => Ask::get("/v1/events"),
        9 => Ask::get("/v1/revocations"),
        10 => {
            let prefix = format!(r#""prefix":"198.51.100.{which}/32""#);
            if (turn / PREFIXES).is_multiple_of(2) {
                changes(
                    Method::POST,
                    "/v1/denials",
                    &format!(r#"{{{prefix},"reason":"load","forSeconds":2}}"#),
                )
            } else {
                changes(Method::DELETE, "/v1/denials", &format!("{{{prefix}}}"))
            }
        }
        _ => {
            let whom = format!(r#""whom":{{"apiKey":"key-{which}"}}"#);
            changes(
                Method::POST,
                "/v1/revocations",
                &format!(r#"{{{whom},"reason":"load","forSeconds":2}}"#),
            )
        }
    }
}

fn changes(method: Method, path: &str, body: &str) -> Ask {
    let json = HeaderValue::from_static("application/json");
    let mut ask = Ask::get(path).with_header(header::CONTENT_TYPE, json);
    ask.method = method;
    ask.body = body.as_bytes().to_vec().into();
    ask
}

/// How long each answer took, and what was wrong.
#[derive(Default)]
struct Seen {
    took: Mutex<Vec<Duration>>,
    wrong: Mutex<Vec<String>>,
}

fn locked<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_until(stop: Arc<AtomicBool>, turns: Arc<AtomicU64>, token: HeaderValue, seen: Arc<Seen>) {
    let client = Client::plain(ADMIN).with_patience(PATIENCE);
    while !stop.load(Relaxed) {
        let ask = asks(turns.fetch_add(1, Relaxed)).with_header(TOKEN, token.clone());
        let began = Instant::now();
        let what = match client.once(&ask).await {
            // What is not denied cannot be allowed, for one.
            Ok(answer) if !answer.status.is_server_error() && answer.status != StatusCode::UNAUTHORIZED => {
                None
            }
            Ok(answer) => Some(format!("{} {}: {answer:?}", ask.method, ask.path)),
            Err(failure) => Some(format!("{} {}: {failure}", ask.method, ask.path)),
        };
        if let Some(what) = what {
            locked(&seen.wrong).push(what);
        }
        locked(&seen.took).push(began.elapsed());
    }
}

/// What was done meanwhile, and what the agent used half-way and in the end.
struct Disturbed {
    reloads: u32,
    interfaces: u32,
    middle: (u64, usize),
    end: (u64, usize),
}

/// Policies change, and interfaces come and go, for so long.
fn disturb(stage: &Stage, lasts: Duration) -> Result<Disturbed> {
    let began = Instant::now();
    let (mut reloads, mut interfaces, mut middle) = (0, 0, None);
    // A machine that is slow enough comes to the middle late.
    while began.elapsed() < lasts || middle.is_none() {
        let next = Instant::now() + Duration::from_millis(100);
        if middle.is_none() && began.elapsed() > lasts / 2 {
            middle = Some(uses(stage.agent().pid())?);
        }
        reloads += 1;
        let limit = format!("{{name: each, per: source, rate: {}/s}}", 1_000 + reloads % 7);
        stage.workspace().write_policy(EDGE, &edge(&limit))?;
        let node = stage.lab().node();
        for (one, other) in [("late0", "late1"), ("other0", "other1")] {
            interfaces += 1;
            node.ip(&["link", "add", one, "type", "veth", "peer", "name", other])?;
            node.ip(&["link", "delete", one])?;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(Disturbed {
        reloads,
        interfaces,
        middle: middle.context("there was no time")?,
        end: uses(stage.agent().pid())?,
    })
}

fn edge(limit: &str) -> String {
    let spec = format!(
        "interfaces: [to-client, to-attacker, \"late*\"]\n  ports: [tcp/8443]\n  limits:\n    - {limit}"
    );
    packet_policy("edge", &spec)
}

/// Kilobytes in memory, and open descriptors: the fewest of several looks, for each of the clients has some connection open
/// most of the time.
fn uses(pid: u32) -> Result<(u64, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let mut fewest = usize::MAX;
    for _ in 0..20 {
        fewest = fewest.min(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        std::thread::sleep(POLL);
    }
    Ok((kilobytes.context("no VmRSS")?.parse()?, fewest))
}

/// All of the admin address' paths by many clients at once, with reloads, interfaces, denials and revocations. Eight seconds;
/// a minute with `ENFORCER_FULL`, where most answers are to be quick too.
#[test]
fn d1_whatever_is_asked_at_once_is_answered_in_time() -> Result<()> {
    let full = std::env::var_os("ENFORCER_FULL").is_some();
    let lasts = Duration::from_secs(if full { 60 } else { 8 });
    let setting = Setting {
        edge: edge("{name: each, per: source, rate: 1000/s}"),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let token = std::fs::read_to_string(stage.workspace().path().join("run/admin.token"))?;
    let token = HeaderValue::from_str(token.trim())?;
    let (stop, turns, seen) = (
        Arc::<AtomicBool>::default(),
        Arc::default(),
        Arc::<Seen>::default(),
    );
    let clients = Resident::start(stage.lab().node(), "clients")?;
    let asking: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
            clients.begin(ask_until(stop, turns, token.clone(), Arc::clone(&seen)))
        })
        .collect();
    let disturbed = disturb(&stage, lasts);
    stop.store(true, Relaxed);
    for each in asking {
        each.wait()?;
    }
    let Disturbed {
        reloads,
        interfaces,
        middle,
        end,
    } = disturbed?;
    let mut took = locked(&seen.took).clone();
    took.sort();
    let wrong = locked(&seen.wrong);
    let of = |share: usize| took[(took.len() - 1) * share / 100];
    println!(
        "{} answers, p50 {:?}, p99 {:?}, longest {:?}; {reloads} reloads, {interfaces} interfaces; KiB and descriptors {middle:?}, {end:?}",
        took.len(),
        of(50),
        of(99),
        of(100),
    );
    ensure!(
        wrong.is_empty(),
        "{} of {}: {:#?}",
        wrong.len(),
        took.len(),
        &wrong[..wrong.len().min(5)]
    );
    ensure!(
        took.len() > 200 && reloads > 3,
        "{} answers, {reloads} reloads",
        took.len()
    );
    // What is written every 100 ms is read every two seconds.
    ensure!(generation(stage.agent())? > 2.0, "policies were not applied");
    ensure!(end.1 <= middle.1 + 16, "descriptors: {middle:?}, {end:?}");
    ensure!(end.0 <= middle.0 + 8 * 1_024, "memory: {middle:?}, {end:?}");
    ensure!(!full || of(99) < Duration::from_millis(100), "p99 {:?}", of(99));
    // No rule about locks was broken, which would have been a panic.
    ensure!(
        !stage.agent().log().contains("panicked"),
        "{}",
        stage.agent().log_tail()
    );
    Ok(())
}
