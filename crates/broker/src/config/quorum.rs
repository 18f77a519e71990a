//! `process.roles`, `controller.quorum.*`, and where this node's peer listener is.

use std::sync::Arc;
use std::time::Duration;

use common::NodeId;

use super::listeners::PeerEndpoint;
use super::load::Reader;
use super::registry::parse_list;
use super::{ConfigError, Listener, Properties};
use crate::cluster::balancing::BalanceMode;

/// What this process is, and how it finds the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumConfig {
    /// Serves clients.
    pub is_broker: bool,
    /// May lead and vote on metadata.
    pub is_controller: bool,
    /// `controller.quorum.voters`: the first voters and their peer listeners. Empty where the quorum is found by
    /// `controller.quorum.bootstrap.servers`, or is this node alone.
    pub voters: Vec<(NodeId, Arc<str>)>,
    /// `controller.quorum.bootstrap.servers`: peer listeners to ask for the quorum.
    pub bootstrap: Vec<Arc<str>>,
    /// Where peers reach this node; `None`: nowhere, it is a cluster by itself.
    pub peer: Option<PeerEndpoint>,
    /// `controller.quorum.election.timeout.ms`: a voter that hears nothing of a leader for a time between this and twice
    /// this stands for election.
    pub election_timeout: Duration,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `broker.session.timeout.ms`: the length of a lease.
    pub session_timeout: Duration,
    /// `ottla.balance`: whether leaders are spread over brokers.
    pub balance: BalanceMode,
    /// `ottla.metadata.backup.interval.ms`: while metadata changes it is copied to the object store so often.
    pub backup_interval: Duration,
    /// `ottla.lost.after.ms`: a broker that was silent for so long is looked after.
    pub suspicion: Duration,
}

impl QuorumConfig {
    /// Whether this node makes a new cluster when it finds no metadata of its own.
    #[must_use]
    pub fn founds(&self, node: NodeId) -> bool {
        self.first_voters(node).iter().any(|(voter, _)| *voter == node)
    }

    /// The voters of a new cluster; none if this node has to join one.
    #[must_use]
    pub fn first_voters(&self, node: NodeId) -> Vec<(NodeId, Arc<str>)> {
        let own = || Arc::from(self.peer.as_ref().map_or("", |peer| peer.told.as_str()));
        let alone = self.bootstrap.is_empty() || self.bootstrap.iter().all(|address| *address == own());
        match self.voters.as_slice() {
            [] if self.is_controller && alone => vec![(node, own())],
            voters => voters.to_vec(),
        }
    }

    /// Peer listeners of those who know the quorum: where a node that joins asks first.
    #[must_use]
    pub fn contacts(&self, node: NodeId) -> Vec<Arc<str>> {
        let others = self.voters.iter().filter(|(voter, _)| *voter != node).map(|(_, address)| Arc::clone(address));
        others.chain(self.bootstrap.iter().cloned()).collect()
    }
}

pub(super) fn quorum(
    read: &Reader<'_>,
    node: NodeId,
    listeners: &[Listener],
    controllers: &[PeerEndpoint],
) -> Result<QuorumConfig, ConfigError> {
    let properties = read.properties;
    let roles = parse_list(properties.get("process.roles").unwrap_or_default());
    let (is_broker, is_controller) = (roles.contains(&"broker"), roles.contains(&"controller"));
    let voters = voters(properties)?;
    let bootstrap = addresses(properties, "controller.quorum.bootstrap.servers")?;
    let is_voter = voters.iter().any(|(voter, _)| *voter == node);
    if is_voter && !is_controller {
        let problem = format!("names node {node}, whose process.roles lacks controller");
        return Err(ConfigError::new("controller.quorum.voters", problem));
    }
    if !is_controller && voters.is_empty() && bootstrap.is_empty() {
        let problem = "must say where the controllers are, for this node is none";
        return Err(ConfigError::new("controller.quorum.bootstrap.servers", problem));
    }
    let clustered = voters.iter().any(|(voter, _)| *voter != node) || !bootstrap.is_empty();
    let peer = peer(properties, is_controller, clustered, listeners, controllers)?;
    if is_voter && clustered && peer.is_none() {
        let problem = "node is a voter and has no listener named in controller.listener.names";
        return Err(ConfigError::new("controller.listener.names", problem));
    }
    let config = QuorumConfig {
        is_broker,
        is_controller,
        voters,
        bootstrap,
        peer,
        election_timeout: read.duration("controller.quorum.election.timeout.ms")?,
        heartbeat_interval: read.duration("broker.heartbeat.interval.ms")?,
        session_timeout: read.duration("broker.session.timeout.ms")?,
        balance: balance(properties)?,
        backup_interval: read.duration("ottla.metadata.backup.interval.ms")?,
        suspicion: read.duration("ottla.lost.after.ms")?,
    };
    check_times(&config)?;
    Ok(config)
}

fn balance(properties: &Properties) -> Result<BalanceMode, ConfigError> {
    match properties.get("ottla.balance").map_or("on", str::trim) {
        "on" => Ok(BalanceMode::On),
        "observe" => Ok(BalanceMode::Observe),
        "off" => Ok(BalanceMode::Off),
        other => Err(ConfigError::new("ottla.balance", format!("'{other}' is none of on, observe, off"))),
    }
}

fn check_times(config: &QuorumConfig) -> Result<(), ConfigError> {
    if config.session_timeout < 3 * config.election_timeout {
        let problem = format!(
            "must be at least three times controller.quorum.election.timeout.ms={}, or a change of the leading \
             controller costs brokers their leases",
            config.election_timeout.as_millis()
        );
        return Err(ConfigError::new("broker.session.timeout.ms", problem));
    }
    if config.heartbeat_interval * 3 > config.session_timeout {
        let problem =
            format!("must be at most a third of broker.session.timeout.ms={}", config.session_timeout.as_millis());
        return Err(ConfigError::new("broker.heartbeat.interval.ms", problem));
    }
    Ok(())
}

/// The controller listener, else `ottla.peer.listener`, else (where there are others) any port beside the first listener.
fn peer(
    properties: &Properties,
    is_controller: bool,
    clustered: bool,
    listeners: &[Listener],
    controllers: &[PeerEndpoint],
) -> Result<Option<PeerEndpoint>, ConfigError> {
    if let Some(controller) = controllers.first().filter(|_| is_controller) {
        return Ok(Some(controller.clone()));
    }
    let beside = listeners.first().map(|first| (first.host.clone(), first.advertised_host.clone()));
    if let Some(text) = properties.get("ottla.peer.listener").map(str::trim).filter(|text| !text.is_empty()) {
        let problem = || ConfigError::new("ottla.peer.listener", format!("'{text}' is not of the form host:port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().map_err(|_| problem())?;
        let told = beside.map_or_else(|| host.clone(), |(_, told)| told);
        let is_wildcard = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified());
        let told = if is_wildcard { told } else { host.clone() };
        return Ok(Some(PeerEndpoint::new(host, port, told)));
    }
    Ok(beside.filter(|_| clustered).map(|(host, told)| PeerEndpoint::new(host, 0, told)))
}

fn voters(properties: &Properties) -> Result<Vec<(NodeId, Arc<str>)>, ConfigError> {
    let key = "controller.quorum.voters";
    let mut voters: Vec<(NodeId, Arc<str>)> = Vec::new();
    for part in parse_list(properties.get(key).unwrap_or_default()).into_iter().filter(|part| !part.is_empty()) {
        let problem = || ConfigError::new(key, format!("'{part}' is not of the form id@host:port"));
        let (id, address) = part.split_once('@').ok_or_else(problem)?;
        let id = id.parse().ok().filter(|id| *id >= 0).map(NodeId).ok_or_else(problem)?;
        if !is_address(address) {
            return Err(problem());
        }
        if voters.iter().any(|(other, _)| *other == id) {
            return Err(ConfigError::new(key, format!("names node {id} twice")));
        }
        voters.push((id, address.into()));
    }
    Ok(voters)
}

fn addresses(properties: &Properties, key: &'static str) -> Result<Vec<Arc<str>>, ConfigError> {
    let parts = parse_list(properties.get(key).unwrap_or_default()).into_iter().filter(|part| !part.is_empty());
    let address = |part: &str| match is_address(part) {
        true => Ok(Arc::from(part)),
        false => Err(ConfigError::new(key, format!("'{part}' is not of the form host:port"))),
    };
    parts.map(address).collect()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::super::BrokerConfig;
    use super::*;

    fn load(text: &str) -> Result<QuorumConfig, ConfigError> {
        BrokerConfig::load(Properties::parse(text).expect("properties"), false).map(|(config, _)| config.quorum)
    }

    const CONTROLLER: &str = "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19193\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n";

    #[test]
    fn one_node_founds_a_cluster_of_its_own() {
        let config = load("").expect("defaults");
        assert!(config.is_broker && config.is_controller && config.founds(NodeId(1)));
        assert_eq!(config.peer, None, "nobody talks to it");
        assert_eq!(config.contacts(NodeId(1)), []);
    }

    #[test]
    fn voters_found_together_and_others_join_them() {
        let voters = "controller.quorum.voters=1@127.0.0.1:19193,2@127.0.0.1:19194\n";
        let first = load(&format!("node.id=1\n{CONTROLLER}{voters}")).expect("valid");
        assert!(first.founds(NodeId(1)));
        assert_eq!(first.peer.expect("a listener").told, "127.0.0.1:19193");
        assert_eq!(first.voters.len(), 2);
        let joins = load(&format!("node.id=3\nprocess.roles=broker\n{voters}")).expect("valid");
        assert!(!joins.founds(NodeId(3)) && !joins.is_controller);
        assert_eq!(joins.contacts(NodeId(3)).len(), 2);
        assert_eq!(joins.peer.expect("a port of its own").port, 0);
    }

    #[test]
    fn bootstrap_servers_found_only_what_they_name_alone() {
        let servers = "controller.quorum.bootstrap.servers=127.0.0.1:19193\n";
        assert!(load(&format!("node.id=1\n{CONTROLLER}{servers}")).expect("valid").founds(NodeId(1)));
        let others = "controller.quorum.bootstrap.servers=127.0.0.1:19193,127.0.0.1:19194\n";
        assert!(!load(&format!("node.id=1\n{CONTROLLER}{others}")).expect("valid").founds(NodeId(1)));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, part) in [
            ("process.roles=broker", "controller.quorum.bootstrap.servers"),
            ("controller.quorum.voters=1@nowhere", "id@host:port"),
            ("controller.quorum.voters=1@a:1,1@b:1", "names node 1 twice"),
            ("process.roles=broker\ncontroller.quorum.voters=1@a:1,2@b:1", "lacks controller"),
            ("controller.quorum.bootstrap.servers=nowhere", "host:port"),
            ("ottla.peer.listener=9", "ottla.peer.listener"),
            ("ottla.balance=maybe", "ottla.balance"),
            ("broker.session.timeout.ms=1000", "broker.session.timeout.ms"),
            ("broker.heartbeat.interval.ms=2000", "broker.heartbeat.interval.ms"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
