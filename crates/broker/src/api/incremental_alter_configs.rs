//! IncrementalAlterConfigs (key 44), versions 0–1: sets, removes, extends and shortens single values.

use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::alter::{Altered, Asked, Wish, alter};
use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(crate) struct IncrementalAlterConfigs;

impl Handle for IncrementalAlterConfigs {
    type Request = IncrementalAlterConfigsRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: IncrementalAlterConfigsRequest,
    ) -> Reply<IncrementalAlterConfigsResponse> {
        let asked = request.resources.into_iter().map(asked).collect();
        let altered = alter(Arc::clone(broker), asked, request.validate_only);
        Reply::Later(Box::pin(async move {
            let responses = altered.await.into_iter().map(response).collect();
            IncrementalAlterConfigsResponse::default().with_responses(responses)
        }))
    }
}

fn asked(resource: AlterConfigsResource) -> Asked {
    let changes = resource.configs.into_iter().map(|change| (change.name, change.config_operation, change.value));
    Asked { kind: resource.resource_type, name: resource.resource_name, wish: Wish::Change(changes.collect()) }
}

fn response(altered: Altered) -> AlterConfigsResourceResponse {
    AlterConfigsResourceResponse::default()
        .with_resource_type(altered.kind)
        .with_resource_name(altered.name)
        .with_error_code(altered.code)
        .with_error_message(altered.message)
}
