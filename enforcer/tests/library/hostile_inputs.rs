//! The functions that fuzzers run hold on the seeds, and on changes of them that are the same each time.
//!
//! `cargo xtask fuzz` looks further: what it finds becomes a seed.

use std::{fs, path::Path};

use enforcer::fuzz::{TARGETS, Target};
use fastrand::Rng;

/// How many changed inputs each target gets, and those of policies, each of which is read twice.
const CHANGED: usize = 3_000;
const CHANGED_POLICIES: usize = 150;

/// What changes put in: characters that mean something to one of the readers.
const PIECES: [&[u8]; 16] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"/",
    b"..",
    b"%2e",
    b"%",
    b";",
    b"{",
    b"}",
    b"[]",
    b"\"",
    b": ",
    b"- ",
    b"\xff",
    b"18446744073709551616",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("fuzz/seeds").join(target)];
    if target == "policy" {
        folders.push(root.join("policies"));
    }
    let mut files: Vec<_> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One to four changes: a piece put in or over something, something taken out, a bit, a splice with another seed.
fn change(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = random.choice(seeds).unwrap().clone();
    for _ in 0..random.usize(1..=4) {
        let from = random.usize(..=bytes.len());
        let to = (from + random.usize(..8)).min(bytes.len());
        let piece = random.choice(PIECES).unwrap();
        match random.u8(..5) {
            0 => drop(bytes.splice(from..from, piece.iter().copied())),
            1 => drop(bytes.splice(from..to, piece.iter().copied())),
            2 => drop(bytes.drain(from..to)),
            3 if from < bytes.len() => bytes[from] ^= 1 << random.u8(..8),
            _ => {
                let other = random.choice(seeds).unwrap();
                let rest = random.usize(..=other.len());
                bytes.truncate(from);
                bytes.extend(&other[rest..]);
            }
        }
    }
    bytes
}

#[test]
fn every_target_holds_on_its_seeds_and_changes_of_them() {
    for Target { name, run } in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds.iter().for_each(|seed| run(seed));
        let mut random = Rng::with_seed(20_231_114);
        let changed = if name == "policy" {
            CHANGED_POLICIES
        } else {
            CHANGED
        };
        for _ in 0..changed {
            run(&change(&seeds, &mut random));
        }
        println!("{name}: {} seeds, {changed} changes of them", seeds.len());
    }
}
