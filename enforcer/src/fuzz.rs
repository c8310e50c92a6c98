//! What strangers and operators feed the agent, as functions of bytes for fuzzers: each panics when an invariant
//! breaks.
//!
//! `cargo xtask fuzz` runs them under libFuzzer; the tests `hostile_inputs` run them on the seeds in `fuzz/seeds` and
//! on changes of those.

use std::{collections::HashSet, fmt::Write, path::PathBuf};

use enforcer_gateway::fuzz as gateway;
use enforcer_policy::{
    files::{Files, MAX_FILE},
    load::load_files,
    yaml::place::{Sink, Source},
};
use enforcer_routing::router::Router;

/// A function of bytes, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target {
        name: "policy",
        run: policy,
    },
    Target {
        name: "target",
        run: gateway::target,
    },
    Target {
        name: "head",
        run: gateway::head,
    },
    Target {
        name: "lengths",
        run: gateway::lengths,
    },
    Target {
        name: "routes",
        run: enforcer_routing::fuzz::routes,
    },
    Target {
        name: "proxy",
        run: gateway::proxy,
    },
    Target {
        name: "token",
        run: gateway::token,
    },
    Target {
        name: "proof",
        run: gateway::proof,
    },
    Target {
        name: "keys",
        run: gateway::keys,
    },
];

/// A policy file: what is wrong with it has a place in it, and what is right can be served.
fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // As the reader of files has it.
    if text.len() as u64 > MAX_FILE {
        return;
    }
    let load = || {
        let files = Files {
            sources: vec![Source::new(PathBuf::from("fuzz.yaml"), text.to_owned())],
            digest: String::new(),
            unreadable: false,
        };
        load_files(files, Sink::default())
    };
    let lines = text.lines().count() as u64 + 1;
    match load() {
        Ok(loaded) => {
            let router = Router::new(&loaded.set.routes);
            drop(router);
            let again = load().map(|again| again.set.routes.len());
            assert_eq!(again, Ok(loaded.set.routes.len()));
            let names: Vec<_> = loaded.set.services.iter().map(|service| &service.name).collect();
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        }
        Err(problems) => {
            assert_eq!(load().map(drop).as_ref(), Err(&problems));
            for problem in &problems {
                let mut shown = String::new();
                let written = write!(shown, "{problem}");
                assert!(written.is_ok() && !shown.is_empty());
                assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
                assert!(
                    (1..=lines).contains(&problem.line) && problem.column > 0,
                    "{problem:?} has no place in {lines} lines"
                );
            }
        }
    }
}
