//! The laws of the house (`docs/architecture.md`, "The house") as tests: what may depend on what, how long a
//! file and a function may be, where clocks, randomness and `unsafe` may stand. Each test lists every offence.

mod graph;
mod rust;
mod supply;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use ottla_integration::process::tools::root;

/// Fails with all `offences`, if there are any.
fn none(offences: &[String]) {
    assert!(offences.is_empty(), "\n  {}\n", offences.join("\n  "));
}

/// All files of the source tree, relative to its root. What builds and tools leave behind is no part of it.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), Path::new(""), &mut found);
    found.sort();
    found
}

fn walk(base: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(base.join(dir)).expect("a directory of the source tree").flatten() {
        let name = entry.file_name();
        let path = dir.join(&name);
        let kind = entry.file_type().expect("a file type");
        let left_behind = ["target", ".git", "__pycache__", ".venv", "node_modules"].iter().any(|&n| name == *n);
        if left_behind {
            continue;
        }
        if kind.is_dir() {
            walk(base, &path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(root().join(path)).expect("a file of the source tree")).into_owned()
}
