//! What no file may mention, and links that must lead somewhere.

use std::path::Path;

use ottla_integration::process::tools::root;

use super::{files, none, read};

/// Words that tie the project to one machine or network. Written in pieces, so that this file passes too.
fn banned() -> Vec<String> {
    let hosts = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["python", "hosted.org"],
        ["npmjs", ".org"],
        ["maven.apache", ".org"],
        ["repo1.maven", ".org"],
        ["proxy.golang", ".org"],
        ["deb.debian", ".org"],
    ];
    let paths = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]];
    hosts.iter().chain(&paths).map(|pieces| pieces.concat()).collect()
}

#[test]
fn no_registry_hosts_and_no_machine_paths() {
    let mut offences = Vec::new();
    // The lock file is cargo's own, and names the index it resolved from.
    for path in files().into_iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let text = read(&path);
        for word in banned() {
            let lines = text.lines().enumerate().filter(|(_, line)| line.contains(&word));
            offences.extend(lines.map(|(number, _)| format!("{}:{}: {word}", path.display(), number + 1)));
        }
    }
    none(&offences);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut offences = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        let text = read(&path);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or("");
            let local = !target.is_empty() && !target.contains("://");
            let there = root().join(path.parent().unwrap_or(Path::new(""))).join(target);
            if local && !there.exists() {
                offences.push(format!("{}: {target}", path.display()));
            }
        }
    }
    none(&offences);
}
