//! All voters lose their metadata: it is rebuilt from a copy in the object store, under producers and consumers that only
//! wait. Real processes; what clients saw is judged as a whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::driver::Driver;
use ottla_integration::process::{tools, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);
const NODES: [u32; 3] = [1, 2, 3];

fn data(cluster: &Cluster, node: u32) -> PathBuf {
    cluster.dir().join(node.to_string()).join("data")
}

/// Keys of the copies in the cluster's store, oldest first.
fn copies(cluster: &Cluster) -> Vec<String> {
    let store = cluster.dir().join("store");
    let names = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut copies: Vec<String> = names(&store.join("metadata"))
        .iter()
        .flat_map(|folder| names(folder))
        .map(|path| path.strip_prefix(&store).expect("below the store").to_str().expect("text").to_owned())
        .filter(|key| !key.contains('#'))
        .collect();
    copies.sort();
    copies
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn restore(cluster: &Cluster, node: u32, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::ottla().expect("it builds"));
    let properties = data(cluster, node).with_file_name("server.properties");
    command.args(["metadata", "restore", "--config"]).arg(properties).args(arguments);
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lose_metadata(cluster: &Cluster) {
    for node in NODES {
        cluster.kill_node(node).expect("it runs");
    }
    for node in NODES {
        std::fs::remove_dir_all(data(cluster, node).join("raft")).expect("it has a metadata log");
    }
}

/// The copy is some seconds older than the last commits, which are found in the store; the rest is in the logs.
#[test]
fn a_lost_quorum_is_rebuilt_and_nothing_acknowledged_is_lost() {
    let properties = vec!["ottla.metadata.backup.interval.ms=1000".to_owned()];
    let cluster = Cluster::start(&Options { brokers: 3, properties, ..Options::default() }).expect("it starts");
    let dir = tempfile::tempdir().expect("a directory");
    let mut driver = Driver::start(&cluster.bootstrap, dir.path(), &[], PATIENCE).expect("the driver gets going");
    let before = copies(&cluster).len();
    wait_until(PATIENCE, "metadata is copied after the topics were made", || copies(&cluster).len() >= before + 2)
        .expect("it is");
    let copy = copies(&cluster).pop().expect("there is one");
    driver.let_run(2_000).expect("clients go on");
    wait_until(PATIENCE, "more was committed", || copies(&cluster).last() > Some(&copy)).expect("it is");
    lose_metadata(&cluster);

    let restored = restore(&cluster, 1, &["--from", &copy]);
    let told = text(&restored.stdout);
    assert!(restored.status.success(), "{told}{}", text(&restored.stderr));
    assert!(told.contains("found again") && !told.contains("MAY BE LOST"), "{told}");
    let again = restore(&cluster, 1, &[]);
    assert!(!again.status.success() && text(&again.stderr).contains("there is a metadata log already"));

    for node in NODES {
        cluster.restart_node(node).unwrap_or_else(|error| panic!("{error:#}\n{told}"));
    }
    driver.let_run(500).expect("clients go on");
    let verdict = driver.finish_clean().unwrap_or_else(|error| panic!("{error:#}\n{told}{}", cluster.log()));
    eprintln!("{verdict}\n{told}");
}

/// A log that nobody can read is told of, and has to be accepted before anything is made.
#[test]
fn what_may_be_lost_is_told_and_has_to_be_accepted() {
    let properties = vec!["ottla.metadata.backup.interval.ms=1000".to_owned()];
    let cluster = Cluster::start(&Options { brokers: 3, properties, ..Options::default() }).expect("it starts");
    let dir = tempfile::tempdir().expect("a directory");
    let driver = Driver::start(&cluster.bootstrap, dir.path(), &[], PATIENCE).expect("the driver gets going");
    let before = copies(&cluster).len();
    wait_until(PATIENCE, "metadata is copied after the topics were made", || copies(&cluster).len() >= before + 2)
        .expect("it is");
    drop(driver);
    lose_metadata(&cluster);
    std::fs::rename(data(&cluster, 3).join("wal"), data(&cluster, 3).join("elsewhere")).expect("it has a log");

    let refused = restore(&cluster, 1, &[]);
    let told = text(&refused.stdout);
    assert!(!refused.status.success() && text(&refused.stderr).contains("--accept-data-loss"), "{told}");
    assert!(told.contains("of node 3") && told.contains("was not read"), "{told}");
    assert!(!data(&cluster, 1).join("raft").exists(), "nothing was made");

    let elsewhere = format!("file://{}", data(&cluster, 3).join("elsewhere").display());
    let whole = restore(&cluster, 1, &["--wal", &elsewhere]);
    assert!(whole.status.success(), "{}{}", text(&whole.stdout), text(&whole.stderr));
    assert!(!text(&whole.stdout).contains("MAY BE LOST"), "{}", text(&whole.stdout));
}

/// What a restore cannot place stays until an operator has it deleted; nothing else goes.
#[test]
fn objects_from_before_a_restore_are_deleted_when_told_to() {
    let properties = vec!["ottla.metadata.backup.interval.ms=1000".to_owned()];
    let cluster = Cluster::start(&Options { properties, ..Options::default() }).expect("it starts");
    let dir = tempfile::tempdir().expect("a directory");
    let mut driver = Driver::start(&cluster.bootstrap, dir.path(), &[], PATIENCE).expect("the driver gets going");
    driver.let_run(500).expect("clients go on");
    let orphans = |arguments: &[&str]| {
        let admin = std::fs::read_to_string(cluster.node().join("admin")).expect("it is ready");
        let mut command = Command::new(tools::ottla().expect("it builds"));
        let answer = command.args(["metadata", "orphans", "--admin", admin.trim()]).args(arguments).output();
        let answer = answer.expect("runs");
        assert!(answer.status.success(), "{}", text(&answer.stderr));
        text(&answer.stdout)
    };
    assert!(orphans(&["--delete"]).contains("never restored"));
    cluster.stop().expect("it uploads what it has");
    let epochs = cluster.dir().join("store/objects");
    let left = epochs.join("0000000001/0000000000000999-0");
    std::fs::create_dir_all(left.parent().expect("a folder")).expect("makes it");
    std::fs::write(&left, "no object").expect("writes");
    std::fs::remove_dir_all(data(&cluster, 1).join("raft")).expect("it has a metadata log");
    let restored = restore(&cluster, 1, &["--accept-data-loss"]);
    assert!(text(&restored.stdout).contains("MAY BE LOST: object objects/0000000001/"), "{}", text(&restored.stdout));
    cluster.restart().expect("it goes on");

    let key = "objects/0000000001/0000000000000999-0";
    assert!(orphans(&[]).starts_with("0 objects"), "it was put just now");
    let listed = orphans(&["--older-than", "0"]);
    assert!(listed.starts_with(key) && listed.contains("\n1 objects of 9 bytes"), "{listed}");
    assert!(left.exists(), "it was listed");
    let before = files(&epochs);
    let deleted = orphans(&["--older-than", "0", "--delete"]);
    assert!(deleted.starts_with(key) && deleted.contains("were deleted"), "{deleted}");
    assert!(orphans(&["--older-than", "0"]).starts_with("0 objects"));
    let gone: Vec<PathBuf> = before.into_iter().filter(|file| !file.exists()).collect();
    assert_eq!(gone, [left], "streams keep theirs");
    driver.let_run(500).expect("clients go on");
    let (_, verdict) = driver.finish().unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.log()));
    assert!(verdict.is_clean(), "{verdict}");
}

/// A node that had a metadata log and lost it makes no empty cluster of its name.
#[test]
fn a_lone_node_without_its_metadata_log_says_what_to_do() {
    let properties = vec!["ottla.metadata.backup.interval.ms=1000".to_owned()];
    let cluster = Cluster::start(&Options { properties, ..Options::default() }).expect("it starts");
    wait_until(PATIENCE, "metadata is copied", || !copies(&cluster).is_empty()).expect("it is");
    cluster.kill().expect("it runs");
    std::fs::remove_dir_all(data(&cluster, 1).join("raft")).expect("it has a metadata log");
    let refused = format!("{:#}", cluster.restart().expect_err("it has no metadata"));
    assert!(refused.contains("ottla metadata restore"), "{refused}");
    let restored = restore(&cluster, 1, &[]);
    assert!(restored.status.success(), "{}{}", text(&restored.stdout), text(&restored.stderr));
    cluster.restart().expect("it goes on");
}
