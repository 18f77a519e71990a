//! What comes from other people: where it comes from, under which licence, and what never comes in. The same
//! rules stand in `deny.toml` for `cargo deny check`, which also knows advisories; this needs no tool and no
//! network, so it always runs.

use std::process::Command;

use ottla_integration::process::{output_of, tools::root};
use serde_json::Value;

use super::{none, read};

/// Words of `deny.toml`'s list `key`.
fn deny_list(key: &str) -> Vec<String> {
    let text = read("deny.toml".as_ref());
    let start = text.find(&format!("\n{key} = [")).unwrap_or_else(|| panic!("deny.toml has {key}"));
    let list = &text[start..start + text[start..].find("\n]").expect("the list ends")];
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every package that is resolved, ours and others.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Sources of packages for other systems are not fetched by a build, so they are not asked for here.
    command.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    command.args(["--filter-platform", env!("OTTLA_TARGET")]).current_dir(root());
    let metadata: Value = serde_json::from_str(&output_of(&mut command).expect("cargo metadata")).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or("")
}

/// Whether a licence expression can be met with the allowed ones alone.
fn allowed(expression: &str, licences: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" AND ").all(|all| {
        // `+` is "or any later version": the named one will do.
        all.split(" OR ").any(|any| licences.iter().any(|licence| licence == any.trim().trim_end_matches('+')))
    })
}

#[test]
fn licences_are_ours_to_use() {
    let licences = deny_list("allow");
    let bad = packages().into_iter().filter(|p| !text(p, "name").starts_with("ottla")).filter_map(|p| {
        let licence = text(&p, "license");
        (!allowed(licence, &licences)).then(|| format!("{} {}: {licence:?}", text(&p, "name"), text(&p, "version")))
    });
    none(&bad.collect::<Vec<_>>());
}

#[test]
fn everything_comes_from_the_standard_registry() {
    let lock = read("Cargo.lock".as_ref());
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let standard = ["\"registry+https://github.com/rust-lang/crates", ".io-index\""].concat();
    none(&sources.filter(|source| *source != standard).map(str::to_owned).collect::<Vec<_>>());
}

#[test]
fn banned_crates_stay_out() {
    let lock = read("Cargo.lock".as_ref());
    let banned = deny_list("deny");
    assert!(banned.iter().any(|name| name == "openssl-sys"), "the list is read: {banned:?}");
    let found = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    none(&found.filter(|name| banned.iter().any(|b| b == name)).map(str::to_owned).collect::<Vec<_>>());
}

#[test]
fn expressions_are_understood() {
    let licences = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    for (expression, met) in [
        ("MIT", true),
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND Apache-2.0", true),
        ("", false),
    ] {
        assert_eq!(allowed(expression, &licences), met, "{expression}");
    }
}
