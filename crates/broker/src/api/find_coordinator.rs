//! FindCoordinator (key 10), versions 0–6: which broker coordinates a group: the leader of its partition of
//! `__consumer_offsets`, which is created if need be. Version 1 brings key types, 4 several keys with an error for
//! each. Transactions are coordinated in the same way, on `__transaction_state`. Share groups have no coordinators yet.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::MetadataImage;
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::cluster::doubt::Doubtful;
use crate::coordinator::{GROUP_METADATA_TOPIC, GroupCoordinator, TRANSACTION_STATE_TOPIC, TransactionCoordinator};
use crate::topics::{self, Deadline};

/// See the module.
pub(super) struct FindCoordinator;

/// First version with several keys.
const KEYS_SINCE: i16 = 4;
/// How long the creation of the topic is waited for.
const CREATION_WAIT_MS: i32 = 5_000;
/// How long a coordinator that was just created is waited for.
const READY_WAIT: Duration = Duration::from_secs(1);

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

/// What is coordinated.
#[derive(Clone, Copy)]
enum Kind {
    Group,
    Transaction,
}

impl Kind {
    fn topic(self) -> &'static str {
        match self {
            Self::Group => GROUP_METADATA_TOPIC,
            Self::Transaction => TRANSACTION_STATE_TOPIC,
        }
    }
}

/// Where a coordinator is, or why that is not known.
type Found = Result<(BrokerId, StrBytes, i32), ErrorCode>;

impl Handle for FindCoordinator {
    type Request = FindCoordinatorRequest;
    const VERSIONS: (i16, i16) = (0, 6);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: FindCoordinatorRequest,
    ) -> Reply<FindCoordinatorResponse> {
        let version = context.version;
        let keys = if version >= KEYS_SINCE { request.coordinator_keys } else { vec![request.key] };
        let kind = match request.key_type {
            KEY_TYPE_GROUP => Kind::Group,
            KEY_TYPE_TRANSACTION => Kind::Transaction,
            _ => {
                let refuse = |key| (key, Err(ErrorCode::InvalidRequest));
                return Reply::Now(respond(version, keys.into_iter().map(refuse).collect()));
            }
        };
        let listener = context.connection.listener.clone();
        let image = broker.metadata.image();
        if image.topic(kind.topic()).is_some() {
            return Reply::Now(respond(version, locate(broker, kind, &image, &listener, keys)));
        }
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let deadline = Deadline::after_ms(&broker, CREATION_WAIT_MS);
            let topic = kind.topic();
            if let Err(error) = topics::ensure_exists(&broker, deadline, topic).await {
                tracing::warn!(code = %error.code, message = error.message, "{topic} cannot be created");
            }
            match (keys.first(), kind) {
                (Some(key), Kind::Group) => broker.groups.wait_ready(key, READY_WAIT).await,
                (Some(key), Kind::Transaction) => broker.transactions.coordinator.wait_ready(key, READY_WAIT).await,
                (None, _) => {}
            }
            let image = broker.metadata.image();
            respond(version, locate(&broker, kind, &image, &listener, keys))
        }))
    }
}

fn locate(
    broker: &Broker,
    kind: Kind,
    image: &MetadataImage,
    listener: &str,
    keys: Vec<StrBytes>,
) -> Vec<(StrBytes, Found)> {
    let doubtful = broker.member.doubts.about(image);
    let locate = |key: StrBytes| {
        let found = coordinator_of(image, kind, &doubtful, listener, &key).ok_or(ErrorCode::CoordinatorNotAvailable);
        (key, found)
    };
    keys.into_iter().map(locate).collect()
}

fn coordinator_of(
    image: &MetadataImage,
    kind: Kind,
    doubtful: &Doubtful,
    listener: &str,
    key: &str,
) -> Option<(BrokerId, StrBytes, i32)> {
    let index = match kind {
        Kind::Group => GroupCoordinator::partition_of(image, key),
        Kind::Transaction => TransactionCoordinator::partition_of(image, key),
    }?;
    let leader = image.topic(kind.topic())?.partition(index)?.leader;
    let node = image.nodes.get(&leader).filter(|node| !node.fenced && !doubtful.contains(leader))?;
    let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == listener)?;
    Some((BrokerId(leader.0), StrBytes::from_string(endpoint.host.clone()), endpoint.port.into()))
}

fn respond(version: i16, found: Vec<(StrBytes, Found)>) -> FindCoordinatorResponse {
    let coordinators = found.into_iter().map(|(key, found)| {
        let one = Coordinator::default().with_key(key);
        match found {
            Ok((node, host, port)) => one.with_node_id(node).with_host(host).with_port(port),
            Err(code) => one
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(code.code())
                .with_error_message(Some(StrBytes::from_static_str(code.message()))),
        }
    });
    let mut coordinators: Vec<Coordinator> = coordinators.collect();
    if version >= KEYS_SINCE {
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let one = coordinators.pop().unwrap_or_default();
    let message = match one.error_code {
        _ if version == 0 => None,
        // Kafka's word for success, which it has in these versions alone.
        0 => Some(StrBytes::from_static_str("NONE")),
        _ => one.error_message,
    };
    FindCoordinatorResponse::default()
        .with_node_id(one.node_id)
        .with_host(one.host)
        .with_port(one.port)
        .with_error_code(one.error_code)
        .with_error_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_encode_in_every_version() {
        let key = StrBytes::from_static_str("key");
        let found = Ok((BrokerId(1), StrBytes::from_static_str("localhost"), 9092));
        for version in FindCoordinator::VERSIONS.0..=FindCoordinator::VERSIONS.1 {
            for found in [found.clone(), Err(ErrorCode::CoordinatorNotAvailable)] {
                let response = respond(version, vec![(key.clone(), found)]);
                let encoded =
                    kafka_protocol::protocol::Encodable::encode(&response, &mut bytes::BytesMut::new(), version);
                assert!(encoded.is_ok(), "version {version}: {encoded:?}");
            }
        }
    }

    #[test]
    fn older_versions_have_one_coordinator_and_its_error_at_the_top() {
        let found = vec![(StrBytes::from_static_str("key"), Err(ErrorCode::CoordinatorNotAvailable))];
        let new = respond(4, found.clone());
        assert_eq!((new.error_code, new.coordinators[0].error_code), (0, 15));
        assert_eq!(new.coordinators[0].key.as_str(), "key");
        let old = respond(3, found);
        assert_eq!((old.error_code, old.node_id.0, old.coordinators.len()), (15, -1, 0));
        let found = vec![(StrBytes::from_static_str("key"), Ok((BrokerId(1), StrBytes::from_static_str("h"), 1)))];
        assert_eq!(respond(3, found).error_message.as_deref(), Some("NONE"));
    }
}
