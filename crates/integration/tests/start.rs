//! Mistakes at start: each ends the broker soon, with a status other than 0 and words that say what is wrong.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use ottla_integration::process::broker::{Broker, Start, command};
use ottla_integration::process::{Process, free_port, output_of, tools};

/// Runs the broker and returns what it said when it refused to start.
fn refused(dir: &Path, port: u16, start: &Start) -> String {
    let mut command = command(dir, port, free_port().expect("a port"), start).expect("the broker builds");
    let log = dir.join("refused.log");
    let mut process = Process::spawn(&mut command, &log).expect("the broker runs");
    let status = process.wait(Duration::from_secs(30)).expect("it ends by itself");
    let said = process.output();
    assert!(!status.success(), "it ended well: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said.to_lowercase()
}

fn with(property: &str) -> Start {
    Start { properties: vec![property.to_owned()], ..Start::default() }
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

#[test]
fn port_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    says(&refused(dir.path(), port, &Start::default()), &[&port.to_string(), "in use"]);
}

#[test]
fn directory_that_cannot_be() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("data"), "a file").expect("written");
    let said = refused(dir.path(), free_port().expect("a port"), &Start::default());
    says(&said, &[&dir.path().join("data").display().to_string().to_lowercase()]);
}

#[test]
fn unknown_store_scheme() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = refused(dir.path(), free_port().expect("a port"), &with("ottla.object.store.url=ftp://somewhere"));
    says(&said, &["ottla.object.store.url", "ftp", "s3://"]);
}

#[test]
fn nonsense_values() {
    let dir = tempfile::tempdir().expect("a directory");
    for (property, word) in [("num.partitions=many", "num.partitions"), ("listeners=nonsense", "listeners")] {
        says(&refused(dir.path(), free_port().expect("a port"), &with(property)), &[word]);
    }
}

#[test]
fn second_process_on_one_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Broker::start(dir.path(), &Start::default()).expect("the first starts");
    let said = refused(dir.path(), free_port().expect("a port"), &Start::default());
    says(&said, &["another process"]);
    drop(first);
}

#[test]
fn listeners_for_everybody_need_a_word() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port().expect("a port");
    let start = with(&format!("listeners=PLAINTEXT://0.0.0.0:{port}"));
    says(&refused(dir.path(), port, &start), &["insecure"]);
}

#[test]
fn version_and_help_are_there() {
    let ottla = tools::ottla().expect("it builds");
    let version = output_of(std::process::Command::new(&ottla).arg("--version")).expect("--version");
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = output_of(std::process::Command::new(&ottla).args(["start", "--help"])).expect("--help");
    says(&help, &["--config", "--data-dir"]);
}
