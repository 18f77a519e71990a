//! ListConfigResources (key 74), versions 0–1: what can be named in DescribeConfigs. Version 0 lists subscriptions to
//! client metrics alone, of which there are none yet; 1 lists the types that it names, or all.

use std::sync::Arc;

use kafka_protocol::messages::list_config_resources_response::ConfigResource as Listed;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::{ConfigResource, MetadataImage};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::alter::{
    BROKER_LOGGER_RESOURCE, BROKER_RESOURCE, CLIENT_METRICS_RESOURCE, GROUP_RESOURCE, TOPIC_RESOURCE,
};

/// See the module.
pub(super) struct ListConfigResources;

const ALL: [i8; 5] = [GROUP_RESOURCE, CLIENT_METRICS_RESOURCE, BROKER_LOGGER_RESOURCE, BROKER_RESOURCE, TOPIC_RESOURCE];

impl Handle for ListConfigResources {
    type Request = ListConfigResourcesRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: ListConfigResourcesRequest,
    ) -> Reply<ListConfigResourcesResponse> {
        Reply::Now(answer(context.version, &request, &broker.metadata.image()))
    }
}

fn answer(version: i16, request: &ListConfigResourcesRequest, image: &MetadataImage) -> ListConfigResourcesResponse {
    let response = ListConfigResourcesResponse::default();
    let asked = &request.resource_types;
    if asked.iter().any(|kind| !ALL.contains(kind)) {
        return response.with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let wanted = |kind: &i8| version > 0 && (asked.is_empty() || asked.contains(kind));
    let listed = ALL.into_iter().filter(wanted).flat_map(|kind| names(kind, image).map(move |name| (kind, name)));
    let listed = listed
        .map(|(kind, name)| Listed::default().with_resource_type(kind).with_resource_name(StrBytes::from_string(name)));
    response.with_config_resources(listed.collect())
}

fn names(kind: i8, image: &MetadataImage) -> Box<dyn Iterator<Item = String> + '_> {
    match kind {
        TOPIC_RESOURCE => Box::new(image.topic_ids.keys().map(ToString::to_string)),
        BROKER_RESOURCE | BROKER_LOGGER_RESOURCE => {
            Box::new(image.nodes.values().filter(|node| !node.fenced).map(|node| node.id.to_string()))
        }
        GROUP_RESOURCE => Box::new(image.configs.keys().filter_map(|resource| match resource {
            ConfigResource::Group(group) => Some(group.to_string()),
            _ => None,
        })),
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use common::{NodeEpoch, NodeId};
    use kafka_protocol::protocol::Encodable;
    use metadata::{NodeImage, Registration};
    use uuid::Uuid;

    use super::*;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        image.topic_ids.insert(Arc::from("t"), Uuid::from_u128(1));
        for (id, fenced) in [(1, false), (2, true)] {
            let mut node = NodeImage::new(&Registration::new(NodeId(id), Uuid::from_u128(2)), NodeEpoch(1));
            node.fenced = fenced;
            image.nodes.insert(NodeId(id), Arc::new(node));
        }
        image
    }

    fn list(version: i16, types: &[i8]) -> (i16, Vec<(i8, String)>) {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response = answer(version, &request, &image());
        let encoded = response.encode(&mut BytesMut::new(), version);
        assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        let listed = response.config_resources.iter().map(|one| (one.resource_type, one.resource_name.to_string()));
        (response.error_code, listed.collect())
    }

    /// As Kafka 4.3.1 answered.
    #[test]
    fn resources_are_listed_by_type() {
        let named = |kind, name: &str| (kind, name.to_owned());
        assert_eq!(list(1, &[]), (0, vec![named(8, "1"), named(4, "1"), named(2, "t")]));
        assert_eq!(list(1, &[2]), (0, vec![named(2, "t")]));
        assert_eq!(list(1, &[16, 32]), (0, Vec::new()));
        assert_eq!(list(1, &[2, 9]), (35, Vec::new()));
        assert_eq!(list(0, &[]), (0, Vec::new()));
    }
}
