//! Unmodified clients of five families against the real broker, those that know it with the consumer protocol of KIP-848
//! too. Each creates a topic, produces with every codec,
//! consumes in a group exactly what it sent and commits; then the broker is restarted, and a second round must get
//! the second round's records and no other: data, groups and offsets are all still there.

use std::path::PathBuf;
use std::process::Command;

use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::{output_of, tools};

/// Runs `program` twice around a restart. `killed` says whether the broker gets to say goodbye; `more` comes last of what
/// the program is told.
fn rounds(program: &[PathBuf], topic: &str, killed: bool, more: &[&str]) {
    let options = Options { properties: vec!["auto.create.topics.enable=true".to_owned()], ..Options::default() };
    let cluster = Cluster::start(&options).expect("the broker starts");
    for round in ["1", "2"] {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]);
        if program[0].ends_with("kgo-driver") {
            command.args(["exchange", "-bootstrap", &cluster.bootstrap, "-topic", topic, "-round", round]);
        } else {
            command.args([cluster.bootstrap.as_str(), topic, round]).args(more);
        }
        let said = output_of(&mut command)
            .unwrap_or_else(|error| panic!("round {round}: {error:#}\nlog of the node:\n{}", cluster.log()));
        assert_eq!(said.lines().last(), Some("ok"), "round {round}: {said}");
        if round == "1" {
            if killed { cluster.kill() } else { cluster.stop() }.expect("the broker ends");
            cluster.restart().expect("the broker starts again");
        }
    }
}

#[test]
fn kafka_python() {
    let python = tools::python().expect("Python");
    rounds(&[python, tools::clients().join("kafka_python_round.py")], "kafka-python", false, &[]);
}

#[test]
fn confluent_kafka() {
    let python = tools::python().expect("Python");
    rounds(&[python, tools::clients().join("confluent_round.py")], "confluent-kafka", true, &[]);
}

#[test]
fn confluent_kafka_with_the_consumer_protocol() {
    let python = tools::python().expect("Python");
    rounds(&[python, tools::clients().join("confluent_round.py")], "confluent-consumer", true, &["consumer"]);
}

#[test]
fn confluent_kafka_with_transactions() {
    let python = tools::python().expect("Python");
    rounds(&[python, tools::clients().join("confluent_transactions.py")], "confluent-transactions", true, &[]);
}

#[test]
fn franz_go() {
    rounds(&[tools::kgo_driver().expect("Go")], "franz-go", true, &[]);
}

#[test]
fn kcat() {
    tools::kcat().expect("kcat");
    rounds(&[tools::clients().join("kcat_round.sh")], "kcat", false, &[]);
}

#[test]
fn java_console_tools() {
    rounds(&[tools::clients().join("java_round.sh")], "java", true, &[]);
}

#[test]
fn java_console_tools_with_the_consumer_protocol() {
    rounds(&[tools::clients().join("java_round.sh")], "java-consumer", true, &["consumer"]);
}
