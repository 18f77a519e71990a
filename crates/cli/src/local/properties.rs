//! The `server.properties` of a local node: the defaults that client suites count on, then what they override.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// How far above the first node's port controllers listen.
const CONTROLLER_DISTANCE: u32 = 100;

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

/// The node that keeps metadata where that is apart from the brokers.
pub(crate) const CONTROLLER: u32 = 3000;

/// What the nodes of a local cluster share.
pub(crate) struct Layout<'a> {
    /// The cluster's directory, absolute.
    pub(crate) directory: &'a Path,
    /// How many brokers.
    pub(crate) nodes: u32,
    /// Number of the first one.
    pub(crate) first: u32,
    /// Port of the first one.
    pub(crate) port: u16,
    /// A controller of its own keeps metadata.
    pub(crate) apart: bool,
}

/// Where a layout is kept, so that a later broker can be made to fit; in the cluster's directory.
const LAYOUT_FILE: &str = "layout";

impl<'a> Layout<'a> {
    /// Keeps the layout, and the properties that were given, in the cluster's directory: the numbers in one line, then
    /// a line for each property.
    pub(crate) fn write(&self, properties: &[String]) -> Result<()> {
        if let Some(odd) = properties.iter().find(|text| text.contains('\n')) {
            bail!("-x {odd}: a property is one line");
        }
        let Self { directory, nodes, first, port, apart } = self;
        let path = directory.join(LAYOUT_FILE);
        let mut lines = vec![format!("{nodes} {first} {port} {apart}")];
        lines.extend_from_slice(properties);
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, lines.join("\n")))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The layout of a cluster that was started in `directory`, and the properties that were given, a line each.
    pub(crate) fn read(directory: &'a Path) -> Result<(Self, String)> {
        let path = directory.join(LAYOUT_FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (numbers, properties) = text.split_once('\n').unwrap_or((&text, ""));
        let parse = || {
            let [nodes, first, port, apart] = numbers.split(' ').collect::<Vec<_>>()[..] else { return None };
            let (nodes, first) = (nodes.parse().ok()?, first.parse().ok()?);
            Some(Self { directory, nodes, first, port: port.parse().ok()?, apart: apart.parse().ok()? })
        };
        let layout = parse().ok_or_else(|| anyhow!("{} is not what `local start` wrote", path.display()))?;
        Ok((layout, properties.to_owned()))
    }
}

impl Layout<'_> {
    /// All nodes, those that vote first.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let controller = self.apart.then_some(CONTROLLER);
        controller.into_iter().chain(self.brokers()).collect()
    }

    /// The brokers.
    pub(crate) fn brokers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.nodes
    }

    /// Where clients find a broker.
    pub(crate) fn client_port(&self, node: u32) -> Result<u16> {
        self.offset_port(node.wrapping_sub(self.first))
    }

    fn controller_port(&self, node: u32) -> Result<u16> {
        if self.apart {
            self.offset_port(CONTROLLER_DISTANCE)
        } else {
            self.offset_port(node - self.first + CONTROLLER_DISTANCE + 1)
        }
    }

    fn offset_port(&self, distance: u32) -> Result<u16> {
        let port = u16::try_from(distance).ok().and_then(|distance| self.port.checked_add(distance));
        port.ok_or_else(|| anyhow!("-p {} is too high", self.port))
    }

    fn voters(&self) -> Result<String> {
        if self.apart {
            return Ok(format!("{CONTROLLER}@127.0.0.1:{}", self.controller_port(CONTROLLER)?));
        }
        let voters = self.brokers().map(|id| Ok(format!("{id}@127.0.0.1:{}", self.controller_port(id)?)));
        Ok(voters.collect::<Result<Vec<_>>>()?.join(","))
    }

    fn roles(&self, node: u32) -> Result<(&'static str, String)> {
        if node == CONTROLLER && self.apart {
            return Ok(("controller", format!("CONTROLLER://127.0.0.1:{}", self.controller_port(node)?)));
        }
        let clients = format!("PLAINTEXT://127.0.0.1:{}", self.client_port(node)?);
        if self.apart || !self.brokers().contains(&node) {
            return Ok(("broker", clients));
        }
        Ok(("broker,controller", format!("{clients},CONTROLLER://127.0.0.1:{}", self.controller_port(node)?)))
    }
}

/// The whole file of one node, which may be a broker that joins later.
pub(crate) fn server_properties(layout: &Layout<'_>, node: u32, overrides: &[Override<'_>]) -> Result<String> {
    let path = layout.directory.to_str();
    let path = path.ok_or_else(|| anyhow!("-d {} is not UTF-8", layout.directory.display()))?;
    if path.contains([',', '\\', '\n', '?', '#', '%']) {
        bail!("-d {path}: this path cannot be written into a properties file and a URL");
    }
    let (roles, listeners) = layout.roles(node)?;
    let (factor, in_sync) = (layout.nodes.min(3), if layout.nodes < 3 { 1 } else { 2 });
    let mut text = format!(
        "process.roles={roles}\n\
         node.id={node}\n\
         controller.quorum.voters={voters}\n\
         listeners={listeners}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={path}/{node}/data\n\
         ottla.object.store.url=file://{path}/store\n\
         ottla.wal.class=shared\n\
         ottla.admin.listener=127.0.0.1:0\n\
         offsets.topic.replication.factor={factor}\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={factor}\n\
         transaction.state.log.min.isr={in_sync}\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor={factor}\n\
         share.coordinator.state.topic.min.isr={in_sync}\n\
         share.coordinator.state.topic.num.partitions=4\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         transaction.max.timeout.ms=900000\n",
        voters = layout.voters()?,
    );
    for one in overrides.iter().filter(|one| one.node.is_none_or(|id| id == node)) {
        writeln!(text, "{}", one.assignment.replace("{node}", &node.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(nodes: u32, apart: bool) -> Layout<'static> {
        Layout { directory: Path::new("/d"), nodes, first: 1, port: 19092, apart }
    }

    fn lines(overrides: &[&str]) -> Vec<String> {
        let overrides: Vec<_> = overrides.iter().map(|text| Override::parse(text).expect("valid")).collect();
        let text = server_properties(&layout(3, false), 2, &overrides).expect("valid");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_files_are_ones_a_node_accepts() {
        for (layout, node) in [
            (layout(1, false), 1),
            (layout(3, false), 2),
            (layout(5, true), 5),
            (layout(3, true), 3000),
            (layout(3, false), 4),
        ] {
            let text = server_properties(&layout, node, &[]).expect("valid");
            let properties = broker::config::Properties::parse(&text).expect("properties");
            let (config, notices) = broker::config::BrokerConfig::load(properties, false).expect("valid");
            assert_eq!(
                config.listeners.first().map(|first| first.port),
                (node < 3000).then(|| 19091 + u16::try_from(node).expect("small"))
            );
            assert_eq!(config.object_store_url, "file:///d/store");
            assert_eq!(config.data_dir, Path::new("/d").join(node.to_string()).join("data"));
            assert!(notices.unknown.is_empty() && notices.warnings.is_empty());
        }
    }

    #[test]
    fn overrides_come_last_and_find_their_node() {
        let lines = lines(&["2:a=1", "3:b=2", "c=x{node}y:{node}", "listeners=A://h:1"]);
        assert_eq!(lines[lines.len() - 3..], ["a=1", "c=x2y:2", "listeners=A://h:1"]);
        assert!(!lines.iter().any(|line| line.starts_with("b=")));
    }

    #[test]
    fn a_layout_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout { directory: directory.path(), nodes: 3, first: 1, port: 19092, apart: true };
        for given in [vec![], vec!["2:a=1".to_owned(), "b=x y".to_owned()]] {
            layout.write(&given).expect("written");
            let (read, properties) = Layout::read(directory.path()).expect("readable");
            assert_eq!((read.nodes, read.first, read.port, read.apart), (3, 1, 19092, true));
            assert_eq!(properties.lines().collect::<Vec<_>>(), given);
        }
        assert!(layout.write(&["a=1\nb=2".to_owned()]).is_err());
        for odd in ["", "3", "3 1 19092 perhaps", "3 1 70000 true", "3 1 19092 true 5"] {
            fs::write(directory.path().join(LAYOUT_FILE), odd).expect("written");
            assert!(Layout::read(directory.path()).is_err(), "{odd}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "=1", "2:", "2:a", "99999999999:a=1"] {
            assert!(Override::parse(text).is_err(), "{text}");
        }
        assert!(server_properties(&Layout { directory: Path::new("/d,e"), ..layout(1, false) }, 1, &[]).is_err());
        assert!(server_properties(&Layout { port: 65535, ..layout(1, false) }, 1, &[]).is_err());
    }
}
