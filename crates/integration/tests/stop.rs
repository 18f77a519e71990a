//! How a broker ends, and what is there when it starts again: what was acknowledged, whatever happened to the WAL's
//! directory, the object store or the disk meanwhile. The chaos driver runs through it all and its history is judged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ottla_integration::http;
use ottla_integration::process::broker::{Broker, Start};
use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::driver::Driver;
use ottla_integration::process::s3::S3;
use ottla_integration::process::{tools, wait_until};
use ottla_integration::s3sim::Faults;

/// A stop uploads the tail; longer than this is a hang.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

fn judged(driver: Driver, broker: &Broker) {
    let verdict = driver.finish_clean();
    eprintln!("{}", verdict.unwrap_or_else(|error| panic!("{error:#}\nbroker:\n{}", broker.process.output())));
}

fn driver(broker: &Broker, dir: &Path) -> Driver {
    Driver::start(&broker.bootstrap, dir, &[], Duration::from_secs(120)).expect("the driver gets going")
}

#[test]
fn stopped_broker_needs_no_wal() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = dir.path().join("wal-alone");
    let start = Start { properties: vec![format!("ottla.wal.url=file://{}", wal.display())], ..Start::default() };
    let mut broker = Broker::start(dir.path(), &start).expect("the broker starts");
    let mut driver = driver(&broker, dir.path());
    for _ in 0..2 {
        driver.let_run(500).expect("clients go on");
        let status = broker.stop(STOP_PATIENCE).expect("it stops");
        assert!(status.success(), "{status}: {}", broker.process.output());
        std::fs::remove_dir_all(&wal).expect("the WAL's directory is there, and then is not");
        broker = broker.again().expect("it starts without its WAL");
    }
    driver.let_run(500).expect("clients go on");
    judged(driver, &broker);
}

fn s3(prefix: &str) -> (S3, Start) {
    let s3 = S3::start(1).expect("loopback ports");
    let start = Start { properties: vec![s3.property(prefix)], env: s3.env(), ..Start::default() };
    (s3, start)
}

#[test]
fn stop_while_the_store_is_down() {
    let (s3, start) = s3("down");
    let dir = tempfile::tempdir().expect("a directory");
    let mut broker = Broker::start(dir.path(), &start).expect("the broker starts");
    let mut driver = driver(&broker, dir.path());
    driver.let_run(300).expect("clients go on");
    s3.set(&Faults { unreachable_ms: 600_000, ..Faults::default() }).expect("it answers");
    driver.let_run(300).expect("clients go on");
    broker.stop(STOP_PATIENCE).expect("it stops in spite of the store");
    let said = broker.process.output();
    assert!(said.contains("only in the write-ahead log"), "it says what stayed in the WAL: {said}");
    // The store is still away: what is acknowledged comes from the WAL alone.
    broker = broker.again().expect("it starts without its store");
    driver.let_run(300).expect("clients go on");
    s3.set(&Faults::default()).expect("it answers");
    driver.let_run(300).expect("clients go on");
    judged(driver, &broker);
}

#[test]
fn wrong_credentials_are_told_at_start() {
    let (_s3, mut start) = s3("credentials");
    let dir = tempfile::tempdir().expect("a directory");
    start.env[1].1 = "another-secret".to_owned();
    let error = Broker::start(dir.path(), &start).expect_err("it must not start");
    let said = format!("{error:#}").to_lowercase();
    assert!(said.contains("credential") || said.contains("signature") || said.contains("denied"), "{said}");
}

/// The broker runs on a small file system of its own, which the test fills from outside and frees again.
#[test]
fn full_disk_heals() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("data");
    std::fs::create_dir(&disk).expect("made");
    // In a mount namespace, so that nothing stays mounted; as root of a user namespace where we are not root.
    let root = rustix::process::geteuid().is_root();
    let wrapper = format!(
        "exec unshare {} sh -c 'mount -t tmpfs -o size=1536m none {} && exec \"$@\"' sh",
        if root { "-m" } else { "-rm" },
        disk.display()
    );
    let properties = ["ottla.wal.capacity.bytes=134217728", "ottla.wal.upload.bytes=8388608"].map(str::to_owned);
    let start = Start { properties: properties.into(), wrapper: Some(wrapper), ..Start::default() };
    let broker = Broker::start(dir.path(), &start).expect("the broker starts");
    let load = ["-size", "20000", "-rate", "50"];
    let mut driver =
        Driver::start(&broker.bootstrap, dir.path(), &load, Duration::from_secs(120)).expect("the driver gets going");
    driver.let_run(200).expect("clients go on");

    let seen = format!("/proc/{}/root{}", broker.process.id(), disk.display());
    let fill = Command::new("sh").args(["-c", &format!("cat /dev/zero > {seen}/filler 2>&1; true")]).status();
    assert!(fill.expect("sh runs").success());
    let filled = rustix::fs::statvfs(seen.as_str()).expect("the file system is seen");
    assert_eq!(filled.f_bavail, 0, "the disk is full");

    // Acks end when the WAL is full as well; what is there can still be read.
    let mut last = driver.counts().expect("the driver lives");
    wait_until(Duration::from_secs(120), "producing is refused", || {
        std::thread::sleep(Duration::from_secs(3));
        let now = driver.counts().expect("the driver lives");
        let stalled = now.acked == last.acked;
        last = now;
        stalled
    })
    .expect("a full disk stops acks");
    let read = Command::new(tools::kcat().expect("kcat"))
        .args(["-C", "-b", &broker.bootstrap, "-t", "chaos", "-o", "-5", "-e", "-q"])
        .output();
    assert!(!read.expect("kcat runs").stdout.is_empty(), "reads go on");
    assert_eq!(http::get(&broker.admin, "/health").expect("the admin port answers").status, 200);

    std::fs::remove_file(format!("{seen}/filler")).expect("the filler is there");
    driver.let_run(200).expect("clients go on");
    judged(driver, &broker);
}

#[test]
fn all_of_three_end_when_they_are_told_to_together() {
    let cluster = Cluster::start(&Options { brokers: 3, ..Options::default() }).expect("starts");
    // The last of them has no quorum left to take leave of, and must not wait for one.
    cluster.stop_all().expect("each ends by itself, in time");
}
