//! AlterConfigs (key 33), versions 0–2: replaces everything that is set for a resource.

use std::sync::Arc;

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::alter::{Altered, Asked, Wish, alter};
use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(crate) struct AlterConfigs;

impl Handle for AlterConfigs {
    type Request = AlterConfigsRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: AlterConfigsRequest,
    ) -> Reply<AlterConfigsResponse> {
        let asked = request.resources.into_iter().map(asked).collect();
        let altered = alter(Arc::clone(broker), asked, request.validate_only);
        Reply::Later(Box::pin(async move {
            AlterConfigsResponse::default().with_responses(altered.await.into_iter().map(response).collect())
        }))
    }
}

fn asked(resource: AlterConfigsResource) -> Asked {
    let entries = resource.configs.into_iter().map(|entry| (entry.name, entry.value));
    Asked { kind: resource.resource_type, name: resource.resource_name, wish: Wish::Replace(entries.collect()) }
}

fn response(altered: Altered) -> AlterConfigsResourceResponse {
    AlterConfigsResourceResponse::default()
        .with_resource_type(altered.kind)
        .with_resource_name(altered.name)
        .with_error_code(altered.code)
        .with_error_message(altered.message)
}
