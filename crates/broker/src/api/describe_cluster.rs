//! DescribeCluster (key 60), versions 0–2: from 1 with the kind of endpoint asked for, from 2 with fenced
//! brokers on demand.

use std::sync::Arc;

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::NodeImage;
use protocol::ErrorCode;

use super::metadata::{ALL_CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(crate) struct DescribeCluster;

/// `endpoint_type` of brokers.
const BROKERS: i8 = 1;
/// `endpoint_type` of controllers, which only a controller's listener answers.
const CONTROLLERS: i8 = 2;

impl Handle for DescribeCluster {
    type Request = DescribeClusterRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: DescribeClusterRequest,
    ) -> Reply<DescribeClusterResponse> {
        let refuse = |code: ErrorCode, message: String| {
            let response = DescribeClusterResponse::default().with_error_code(code.code());
            Reply::Now(response.with_error_message(Some(StrBytes::from_string(message))))
        };
        match request.endpoint_type {
            BROKERS => {}
            CONTROLLERS => {
                let message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type \
                               CONTROLLER";
                return refuse(ErrorCode::MismatchedEndpointType, message.to_owned());
            }
            other => return refuse(ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {other}")),
        }
        let image = broker.metadata.image();
        let listener = context.connection.listener.as_str();
        let shown = |node: &&Arc<NodeImage>| !node.fenced || request.include_fenced_brokers;
        let brokers = image.nodes.values().filter(shown).filter_map(|node| describe(node, listener));
        let operations = match request.include_cluster_authorized_operations {
            true => ALL_CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
        Reply::Now(
            DescribeClusterResponse::default()
                .with_endpoint_type(BROKERS)
                .with_cluster_id(StrBytes::from_string(image.cluster_id.to_string()))
                .with_controller_id(BrokerId(broker.config.node_id.0))
                .with_brokers(brokers.collect())
                .with_cluster_authorized_operations(operations),
        )
    }
}

fn describe(node: &NodeImage, listener: &str) -> Option<DescribeClusterBroker> {
    let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == listener)?;
    Some(
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(node.id.0))
            .with_host(StrBytes::from_string(endpoint.host.clone()))
            .with_port(endpoint.port.into())
            .with_rack(node.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string())))
            .with_is_fenced(node.fenced),
    )
}
