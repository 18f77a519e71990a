//! The `server.properties` of a local node: the defaults that client suites count on, then what they override.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, anyhow, bail};

/// How far above a node's port its (unused) controller listener is said to be.
const CONTROLLER_PORT_DISTANCE: u16 = 101;

/// A property given by `-x`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Override<'a> {
    node: Option<u32>,
    assignment: &'a str,
}

impl<'a> Override<'a> {
    /// From `[ID:]key=value`.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        let addressed = text.split_once(':').filter(|(id, _)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
        let (node, assignment) = match addressed {
            Some((id, rest)) => (Some(id.parse().map_err(|_| anyhow!("-x {text}: no node has that number"))?), rest),
            None => (None, text),
        };
        if assignment.split_once('=').is_none_or(|(key, _)| key.trim().is_empty()) {
            bail!("-x {text} is not of the form [ID:]key=value");
        }
        Ok(Self { node, assignment })
    }
}

/// The whole file.
pub(crate) fn server_properties(directory: &Path, node: u32, port: u16, overrides: &[Override<'_>]) -> Result<String> {
    let controller = port.checked_add(CONTROLLER_PORT_DISTANCE).ok_or_else(|| anyhow!("-p {port} is too high"))?;
    let path = directory.to_str().ok_or_else(|| anyhow!("-d {} is not UTF-8", directory.display()))?;
    if path.contains([',', '\\', '\n', '?', '#', '%']) {
        bail!("-d {path}: this path cannot be written into a properties file and a URL");
    }
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id={node}\n\
         controller.quorum.voters={node}@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={path}/{node}/data\n\
         ottla.object.store.url=file://{path}/store\n\
         ottla.admin.listener=127.0.0.1:0\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=4\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         transaction.max.timeout.ms=900000\n"
    );
    for one in overrides.iter().filter(|one| one.node.is_none_or(|id| id == node)) {
        writeln!(text, "{}", one.assignment.replace("{node}", &node.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(overrides: &[&str]) -> Vec<String> {
        let overrides: Vec<_> = overrides.iter().map(|text| Override::parse(text).expect("valid")).collect();
        let text = server_properties(Path::new("/d"), 2, 19092, &overrides).expect("valid");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_file_is_one_a_broker_accepts() {
        let text = lines(&[]).join("\n");
        let properties = broker::config::Properties::parse(&text).expect("properties");
        let (config, notices) = broker::config::BrokerConfig::load(properties, false).expect("valid");
        assert_eq!(config.listeners[0].port, 19092);
        assert_eq!(config.object_store_url, "file:///d/store");
        assert_eq!(config.data_dir, Path::new("/d/2/data"));
        assert!(notices.unknown.is_empty() && notices.warnings.is_empty());
    }

    #[test]
    fn overrides_come_last_and_find_their_node() {
        let lines = lines(&["2:a=1", "3:b=2", "c=x{node}y:{node}", "listeners=A://h:1"]);
        assert_eq!(lines[lines.len() - 3..], ["a=1", "c=x2y:2", "listeners=A://h:1"]);
        assert!(!lines.iter().any(|line| line.starts_with("b=")));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "=1", "2:", "2:a", "99999999999:a=1"] {
            assert!(Override::parse(text).is_err(), "{text}");
        }
        assert!(server_properties(Path::new("/d,e"), 1, 1, &[]).is_err());
        assert!(server_properties(Path::new("/d"), 1, 65535, &[]).is_err());
    }
}
