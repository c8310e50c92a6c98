//! Runs the target that `FUZZ_TARGET` names on each input.
#![no_main]

use std::sync::LazyLock;

use enforcer::fuzz::TARGETS;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let named = TARGETS.iter().find(|target| target.name == name);
    named.unwrap_or_else(|| panic!("FUZZ_TARGET must name a target")).run
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| RUN(bytes));
