//! The functions of `fuzz/`, on the corpus and on what mutations make of it.
//!
//! `READSIDE_FUZZ_SEED=n` repeats a run, `READSIDE_FUZZ_ROUNDS=n` makes it longer.

use std::fs;
use std::panic;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// xorshift64*: the same everywhere for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

const TOKENS: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-",
    "1e999",
    "9223372036854775808",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "é",
    "&a",
    "*a",
    "\n  ",
    "!!int",
    "|\n",
    "%YAML 1.2\n---\n",
];

/// One to four small damages.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], data: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(16)).min(data.len());
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 => drop(data.drain(at..end)),
            2 => drop(data.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => data.truncate(at),
            4 => {
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data.truncate(64 << 10);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn run(name: &str, target: fn(&[u8]), rounds: u64, more: Vec<Vec<u8>>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&directory).expect("a corpus").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    corpus.extend(more);
    assert!(!corpus.is_empty(), "no corpus in {}", directory.display());
    let seed = number("READSIDE_FUZZ_SEED", 1);
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let rounds = number("READSIDE_FUZZ_ROUNDS", rounds) as usize;
    for round in 0..corpus.len() + rounds {
        let mut data = corpus[round % corpus.len()].clone();
        if round >= corpus.len() {
            mutate(&mut random, &corpus, &mut data);
        }
        if panic::catch_unwind(|| target(&data)).is_err() {
            let found = std::env::temp_dir().join(format!("readside-fuzz-{name}-{seed}-{round}"));
            fs::write(&found, &data).unwrap();
            panic!("{name}: round {round} of seed {seed} panics; its input is in {}", found.display());
        }
    }
}

#[test]
fn no_configuration_makes_it_panic() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["config/examples", "config/invalid"] {
        for entry in fs::read_dir(project.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    run("config", targets::config, 1_500, files.iter().map(|path| fs::read(path).unwrap()).collect());
}

#[test]
fn no_record_makes_it_panic() {
    run("record", targets::record, 12_000, Vec::new());
}
