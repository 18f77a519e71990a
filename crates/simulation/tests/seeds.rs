//! Seeds that every test run takes: as many different histories, and one of them twice.

use std::process::{Command, Output};

fn ottla_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ottla-sim")).args(arguments).output().expect("ottla-sim runs")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `OTTLA_SIM_SEEDS` and `OTTLA_SIM_FROM` make it as long as one likes.
#[test]
fn no_seed_breaks_a_promise() {
    let from = std::env::var("OTTLA_SIM_FROM").unwrap_or_else(|_| "1".to_owned());
    let count = std::env::var("OTTLA_SIM_SEEDS").unwrap_or_else(|_| "100".to_owned());
    let output = ottla_sim(&["many", "--from", &from, "--count", &count]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn one_seed_is_one_history_to_the_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = |seed: &str, name: &str| {
        let path = directory.path().join(name);
        let output = ottla_sim(&["run", "--seed", seed, "--trace", path.to_str().expect("a path")]);
        assert!(output.status.success(), "{}", told(&output));
        std::fs::read(path).expect("a trace")
    };
    let first = trace("7", "first");
    assert!(first == trace("7", "second"), "seed 7 is not the same twice");
    assert!(first != trace("8", "other"), "the seed makes no difference");
}
