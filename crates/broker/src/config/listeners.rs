//! `listeners`, `advertised.listeners`, `listener.security.protocol.map` and `controller.listener.names`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::registry::parse_list;
use super::{ConfigError, Listener, Properties};

const DEFAULT_LISTENERS: &str = "PLAINTEXT://127.0.0.1:9092";
const DEFAULT_PROTOCOLS: &str = "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT";

/// Name, host and port of one endpoint as written.
struct Endpoint<'a> {
    name: String,
    host: &'a str,
    port: u16,
}

/// Where peers reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEndpoint {
    /// Host to bind.
    pub host: String,
    /// Port to bind; 0 takes any free one.
    pub port: u16,
    /// Host that peers are told.
    pub told_host: String,
    /// `host:port` that peers are told, where the port is known before it is bound.
    pub told: String,
}

impl PeerEndpoint {
    pub(super) fn new(host: String, port: u16, told_host: String) -> Self {
        let told = format!("{told_host}:{port}");
        Self { host, port, told_host, told }
    }
}

/// The listeners for clients, of which a node that is no broker needs none, and those named in
/// `controller.listener.names`, where peers talk.
pub(super) fn listeners(
    properties: &Properties,
    insecure: bool,
) -> Result<(Vec<Listener>, Vec<PeerEndpoint>), ConfigError> {
    let text = properties.get("listeners").filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT_LISTENERS);
    let protocols = protocols(properties.get("listener.security.protocol.map").unwrap_or(DEFAULT_PROTOCOLS))?;
    let controllers = parse_list(properties.get("controller.listener.names").unwrap_or_default());
    let advertised = match properties.get("advertised.listeners") {
        Some(text) => endpoints("advertised.listeners", text)?,
        None => Vec::new(),
    };
    let (mut found, mut peers): (Vec<Listener>, Vec<PeerEndpoint>) = (Vec::new(), Vec::new());
    for endpoint in endpoints("listeners", text)? {
        check_protocol(&endpoint.name, &protocols)?;
        check_reach(&endpoint, insecure)?;
        let told = advertised.iter().find(|told| told.name == endpoint.name);
        let listener = listener(&endpoint, told)?;
        if controllers.iter().any(|name| name.eq_ignore_ascii_case(&endpoint.name)) {
            let Listener { host, port, advertised_host, advertised_port, .. } = listener;
            let told = format!("{advertised_host}:{advertised_port}");
            peers.push(PeerEndpoint { told, ..PeerEndpoint::new(host, port, advertised_host) });
        } else {
            found.push(listener);
        }
    }
    let is_broker = properties.get("process.roles").is_none_or(|roles| parse_list(roles).contains(&"broker"));
    if found.is_empty() && is_broker {
        return Err(ConfigError::new("listeners", "names no listener for clients"));
    }
    let bound = |told: &Endpoint<'_>| {
        found.iter().any(|listener| listener.name == told.name)
            || controllers.iter().any(|name| name.eq_ignore_ascii_case(&told.name))
    };
    if let Some(stray) = advertised.iter().find(|told| !bound(told)) {
        let problem = format!("listener {} is advertised but not among listeners", stray.name);
        return Err(ConfigError::new("advertised.listeners", problem));
    }
    Ok((found, peers))
}

fn listener(endpoint: &Endpoint<'_>, told: Option<&Endpoint<'_>>) -> Result<Listener, ConfigError> {
    let advertised = told.map_or(endpoint.host, |told| told.host);
    let is_wildcard = advertised.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    if is_wildcard {
        let problem = format!(
            "{advertised} is no address a client can connect to; set advertised.listeners={}://<host>:{}",
            endpoint.name, endpoint.port
        );
        return Err(ConfigError::new("advertised.listeners", problem));
    }
    let advertised_host = if advertised.is_empty() { local_host_name() } else { advertised.to_owned() };
    Ok(Listener {
        name: endpoint.name.clone(),
        host: if endpoint.host.is_empty() { "0.0.0.0".to_owned() } else { endpoint.host.to_owned() },
        port: endpoint.port,
        advertised_host,
        advertised_port: told.map_or(endpoint.port, |told| told.port),
    })
}

fn check_protocol(name: &str, protocols: &HashMap<String, String>) -> Result<(), ConfigError> {
    match protocols.get(name).map(String::as_str) {
        Some("PLAINTEXT") => Ok(()),
        Some(protocol @ ("SSL" | "SASL_PLAINTEXT" | "SASL_SSL")) => Err(ConfigError::new(
            "listeners",
            format!("listener {name} uses {protocol}, which this version of Ottla does not support yet"),
        )),
        Some(other) => {
            let problem = format!("{other} is no security protocol: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
            Err(ConfigError::new("listener.security.protocol.map", problem))
        }
        None => Err(ConfigError::new(
            "listener.security.protocol.map",
            format!("no security protocol is defined for listener {name}"),
        )),
    }
}

/// Whoever reaches a listener without authentication owns the cluster: beyond the own machine that needs saying.
fn check_reach(endpoint: &Endpoint<'_>, insecure: bool) -> Result<(), ConfigError> {
    let is_loopback = endpoint.host.eq_ignore_ascii_case("localhost")
        || endpoint.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_loopback || insecure {
        return Ok(());
    }
    let shown = if endpoint.host.is_empty() { "all interfaces" } else { endpoint.host };
    let problem = format!(
        "listener {} on {shown}:{} would be open to the network without authentication; bind 127.0.0.1, or say \
         --insecure (or ottla.insecure=true) if the network is trusted",
        endpoint.name, endpoint.port
    );
    Err(ConfigError::new("listeners", problem))
}

fn protocols(text: &str) -> Result<HashMap<String, String>, ConfigError> {
    let key = "listener.security.protocol.map";
    let mut map = HashMap::new();
    for pair in parse_list(text) {
        let Some((name, protocol)) = pair.split_once(':') else {
            return Err(ConfigError::new(key, format!("'{pair}' is not of the form listener:protocol")));
        };
        let (name, protocol) = (name.trim().to_ascii_uppercase(), protocol.trim().to_ascii_uppercase());
        if map.insert(name.clone(), protocol).is_some() {
            return Err(ConfigError::new(key, format!("listener {name} is mapped twice")));
        }
    }
    Ok(map)
}

fn endpoints<'a>(key: &'static str, text: &'a str) -> Result<Vec<Endpoint<'a>>, ConfigError> {
    let mut found: Vec<Endpoint<'a>> = Vec::new();
    for part in parse_list(text) {
        let endpoint = endpoint(part)
            .ok_or_else(|| ConfigError::new(key, format!("'{part}' is not of the form NAME://host:port")))?;
        if found.iter().any(|other| other.name == endpoint.name) {
            return Err(ConfigError::new(key, format!("listener {} is named twice", endpoint.name)));
        }
        if key == "listeners" && endpoint.port != 0 {
            let same = |other: &&Endpoint<'_>| other.port == endpoint.port && other.host == endpoint.host;
            if let Some(other) = found.iter().find(same) {
                let problem = format!("{} and {} share port {}", other.name, endpoint.name, endpoint.port);
                return Err(ConfigError::new(key, problem));
            }
        }
        found.push(endpoint);
    }
    Ok(found)
}

fn endpoint(text: &str) -> Option<Endpoint<'_>> {
    let (name, address) = text.split_once("://")?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return None;
    }
    Some(Endpoint { name: name.to_ascii_uppercase(), host: bracketed.unwrap_or(host), port: port.parse().ok()? })
}

fn local_host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, insecure: bool) -> Result<Vec<Listener>, ConfigError> {
        listeners(&Properties::parse(text).expect("properties"), insecure).map(|(clients, _)| clients)
    }

    #[test]
    fn the_default_is_loopback() {
        let found = parse("", false).expect("default");
        assert_eq!((found[0].host.as_str(), found[0].port), ("127.0.0.1", 9092));
    }

    #[test]
    fn controllers_are_left_out_and_custom_names_mapped() {
        let text = "listeners=CLIENTS://localhost:19092,CONTROLLER://localhost:19093\n\
                    controller.listener.names=CONTROLLER\n\
                    listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                    advertised.listeners=CLIENTS://broker.example:29092";
        let found = parse(text, false).expect("valid");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "CLIENTS");
        assert_eq!((found[0].advertised_host.as_str(), found[0].advertised_port), ("broker.example", 29092));
    }

    #[test]
    fn beyond_loopback_needs_a_word() {
        let text = "listeners=PLAINTEXT://0.0.0.0:9092\nadvertised.listeners=PLAINTEXT://h:9092";
        assert!(parse(text, false).expect_err("open").to_string().contains("--insecure"));
        assert_eq!(parse(text, true).expect("allowed")[0].host, "0.0.0.0");
        assert!(
            parse("listeners=PLAINTEXT://0.0.0.0:9092", true).expect_err("wildcard").to_string().contains("client")
        );
        assert!(!parse("listeners=PLAINTEXT://:9092", true).expect("host name")[0].advertised_host.is_empty());
    }

    #[test]
    fn ipv6_needs_brackets() {
        let found = parse("listeners=PLAINTEXT://[::1]:9092", false).expect("valid");
        assert_eq!(found[0].host, "::1");
        assert!(parse("listeners=PLAINTEXT://::1:9092", false).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("listeners=SSL://localhost:1", "not support"),
            ("listeners=SASL_PLAINTEXT://localhost:1", "not support"),
            ("listeners=MINE://localhost:1", "no security protocol is defined"),
            ("listeners=PLAINTEXT://localhost", "NAME://host:port"),
            ("listeners=PLAINTEXT://localhost:70000", "NAME://host:port"),
            ("listeners=PLAINTEXT://localhost:1,PLAINTEXT://localhost:2", "twice"),
            ("listener.security.protocol.map=PLAINTEXT", "listener:protocol"),
            ("listener.security.protocol.map=PLAINTEXT:TLS", "TLS is no security protocol"),
            ("listeners=A://localhost:1\nlistener.security.protocol.map=A:PLAINTEXT,A:SSL", "mapped twice"),
            ("advertised.listeners=OTHER://localhost:1", "not among listeners"),
            ("controller.listener.names=PLAINTEXT", "no listener for clients"),
        ] {
            let error = parse(text, false).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
