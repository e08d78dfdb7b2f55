//! The fuzzers' entries over a few mutations of good inputs, the same in every run: a cheap guard that what a fuzzer
//! found once stays mended, and that the fuzzers themselves still fit the code.

#[path = "../../fuzz/src/entries.rs"]
mod entries;

use std::path::Path;

use blockremote::kernel::Random;
use entries::{TARGETS, Target, Vectors};

/// Mutations of each target.
const MUTATIONS: usize = 150;

fn below(random: &Random, bound: usize) -> usize {
    usize::try_from(random.u64()).unwrap_or(usize::MAX) % bound.max(1)
}

/// Some of what a fuzzer does: turned bits, bytes at their limits, cuts, repetitions, and a piece of another input.
fn mutated(seed: &[u8], other: &[u8], random: &Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len());
        match below(random, 6) {
            0 => bytes.truncate(at),
            1 => bytes.splice(at..at, random.bytes::<4>()).for_each(drop),
            2 => {
                let piece = other.iter().skip(below(random, other.len())).take(below(random, 64));
                bytes.splice(at..at, piece.copied().collect::<Vec<_>>()).for_each(drop);
            }
            3 => {
                let piece: Vec<u8> = bytes.iter().skip(at).take(below(random, 2048)).copied().collect();
                bytes.extend(piece);
            }
            change => {
                if let Some(byte) = bytes.get_mut(at) {
                    let limit = [0x00, 0x7f, 0x80, 0xff].into_iter().nth(below(random, 4)).unwrap_or_default();
                    *byte = if change == 4 { *byte ^ (1 << below(random, 8)) } else { limit };
                }
            }
        }
    }
    bytes
}

#[test]
fn no_mutation_of_an_input_makes_a_parser_panic() {
    let random = Random::seeded(0xf022);
    let shared = Vectors::under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    for Target { name, run, seeds } in TARGETS {
        // Without the vectors, whatever chance makes.
        let seeds = shared.as_ref().map_or_else(|| vec![random.bytes::<64>().to_vec()], seeds);
        assert!(seeds.iter().all(|seed| !seed.is_empty()) && !seeds.is_empty(), "{name} has no seeds");
        run(&[]);
        seeds.iter().for_each(|seed| run(seed));
        for _ in 0..MUTATIONS {
            let [seed, other] = [&seeds[below(&random, seeds.len())], &seeds[below(&random, seeds.len())]];
            run(&mutated(seed, other, &random));
        }
    }
}

/// A target that nobody listed is never run.
#[test]
fn every_entry_is_a_fuzzer_and_every_fuzzer_an_entry() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.path().file_stem().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    files.sort_unstable();
    names.sort_unstable();
    assert_eq!(files, names);
}
