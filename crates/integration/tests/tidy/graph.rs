//! Who may depend on whom.

use std::collections::BTreeMap;
use std::process::Command;

use ottla_integration::process::{output_of, tools::root};
use serde_json::Value;

use super::none;

/// Our crates, each with those of ours that it may depend on. The arrows of the architecture, closed downwards.
const LAYERS: &[(&str, &[&str])] = &[
    ("ottla-common", &[]),
    ("ottla-protocol", &["ottla-common"]),
    ("ottla-wal", &["ottla-common"]),
    ("ottla-s3stream", &["ottla-wal", "ottla-common"]),
    ("ottla-metadata", &["ottla-common"]),
    ("ottla-coordinator", &["ottla-protocol", "ottla-common"]),
    ("ottla-broker", BELOW_BROKER),
    ("ottla-drill", &["ottla-common"]),
    ("ottla", ABOVE),
    ("ottla-integration", ABOVE),
    ("ottla-benches", ABOVE),
    ("ottla-simulation", ABOVE),
];
const BELOW_BROKER: &[&str] =
    &["ottla-coordinator", "ottla-metadata", "ottla-s3stream", "ottla-wal", "ottla-protocol", "ottla-common"];
const ABOVE: &[&str] = &[
    "ottla-drill",
    "ottla-broker",
    "ottla-coordinator",
    "ottla-metadata",
    "ottla-s3stream",
    "ottla-wal",
    "ottla-protocol",
    "ottla-common",
];

/// Other people's crates that would break a law: who may not use them, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "ottla-coordinator",
        &["tokio", "async-trait", "futures", "object_store", "openraft"],
        "coordinators are pure state machines: no async, I/O or clocks",
    ),
    ("ottla-protocol", &["tokio", "object_store", "openraft"], "the protocol does no I/O"),
    ("ottla-s3stream", &["kafka-protocol", "openraft"], "streams know neither Kafka nor Raft"),
    ("ottla-wal", &["kafka-protocol", "openraft", "object_store"], "the WAL knows neither Kafka nor Raft"),
    ("ottla-metadata", &["kafka-protocol", "object_store"], "metadata knows no wire and does no storage I/O"),
    ("ottla-common", &["kafka-protocol", "openraft"], "no domain logic"),
];

/// Normal dependencies and those of tests alike, by package.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root());
    let metadata: Value = serde_json::from_str(&output_of(&mut command).expect("cargo metadata")).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    packages.map(|p| (name(p), p["dependencies"].as_array().expect("a list").iter().map(name).collect())).collect()
}

#[test]
fn dependencies_point_downwards() {
    let mut offences = Vec::new();
    let found = dependencies();
    for (package, uses) in &found {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == package) else {
            offences.push(format!("{package} has no place in the graph: give it one in docs/architecture.md"));
            continue;
        };
        let ours = uses.iter().filter(|used| found.contains_key(*used));
        for used in ours.filter(|used| !allowed.contains(&used.as_str())) {
            offences.push(format!("{package} may not depend on {used}"));
        }
    }
    assert_eq!(found.len(), LAYERS.len(), "every crate of the architecture is there: {:?}", found.keys());
    none(&offences);
}

#[test]
fn crates_keep_out_of_what_is_not_theirs() {
    let found = dependencies();
    let mut offences = Vec::new();
    for (package, crates, why) in FORBIDDEN {
        for used in found[*package].iter().filter(|used| crates.contains(&used.as_str())) {
            offences.push(format!("{package} may not use {used}: {why}"));
        }
    }
    none(&offences);
}

#[test]
fn every_crate_has_the_lints() {
    let manifests = super::files()
        .into_iter()
        .filter(|path| path.starts_with("crates") && path.ends_with("Cargo.toml") && path.components().count() == 3);
    let without = manifests.filter(|path| !super::read(path).contains("[lints]\nworkspace = true"));
    none(&without.map(|path| format!("{} lacks `[lints] workspace = true`", path.display())).collect::<Vec<_>>());
}
