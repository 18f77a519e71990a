//! From a frame to a handler: header, version check, guard, decode.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::Decodable;

use super::{ConnectionInfo, Frame};
use crate::Broker;
use crate::api::{self, RequestContext, Served, api_versions};

/// Dispatches one frame. Unknown keys and versions close the connection, as in Kafka; ApiVersions alone
/// answers a version that is too new.
///
/// Also returns how much memory the decoded request takes at most, without its frame.
pub(super) fn dispatch(broker: &Arc<Broker>, connection: &Arc<ConnectionInfo>, frame: Bytes) -> (Served, usize) {
    let Some(prefix) = frame.first_chunk::<8>() else {
        return (Served::Close("frame is shorter than a request header".into()), 0);
    };
    let [k0, k1, v0, v1, c0, c1, c2, c3] = *prefix;
    let (key, version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
    let correlation_id = i32::from_be_bytes([c0, c1, c2, c3]);
    let metrics = broker.metrics.request(key);
    metrics.requests.add(1);
    let mut memory = 0;
    let served = route(broker, connection, key, version, correlation_id, frame, &mut memory);
    if matches!(served, Served::Close(_)) {
        metrics.errors.add(1);
    }
    (served, memory)
}

fn route(
    broker: &Arc<Broker>,
    connection: &Arc<ConnectionInfo>,
    key: i16,
    version: i16,
    correlation_id: i32,
    mut frame: Bytes,
    memory: &mut usize,
) -> Served {
    let Some(api) = api::find(key) else {
        return Served::Close(format!("API key {key} is not supported"));
    };
    if !(api.lowest_decoded..=api.versions.1).contains(&version) {
        if key == ApiKey::ApiVersions as i16 {
            return Served::Now(Frame::response(key, 0, correlation_id, &api_versions::unsupported()));
        }
        return Served::Close(format!("version {version} of API key {key} is not supported"));
    }
    match protocol::guard::check(&frame) {
        Ok(guarded) => *memory = guarded.memory,
        Err(error) => {
            return Served::Close(format!("malformed request (API key {key} version {version}): {error}"));
        }
    }
    let Ok(api_key) = ApiKey::try_from(key) else {
        return Served::Close(format!("API key {key} is not supported"));
    };
    let header = match RequestHeader::decode(&mut frame, api_key.request_header_version(version)) {
        Ok(header) => header,
        Err(error) => return Served::Close(format!("request header cannot be decoded: {error}")),
    };
    let context = RequestContext {
        version,
        correlation_id,
        client_id: header.client_id.unwrap_or_default(),
        connection: Arc::clone(connection),
    };
    (api.serve)(broker, context, frame)
}
