//! AlterConfigs (key 33), versions 0–2: replaces everything that is set for a resource.

use std::sync::Arc;

use futures::StreamExt;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::MetadataImage;
use protocol::ErrorCode;

use super::incremental_alter_configs::apply;
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::BrokerConfig;
use crate::config::alter::{AlterPlan, REPEATED, plan_replacement, repeated, resolve};
use crate::topics::ChangeError;

/// See the module.
pub struct AlterConfigs;

/// Resources of one request that are being changed at the same time.
const CHANGES_AT_ONCE: usize = 64;

impl Handle for AlterConfigs {
    type Request = AlterConfigsRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: AlterConfigsRequest,
    ) -> Reply<AlterConfigsResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let image = broker.metadata.image();
            let named = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
            let repeated = repeated(request.resources.iter().map(named));
            let judge = |resource: &AlterConfigsResource| {
                let (kind, name) = named(resource);
                let judged = match repeated.contains(&(kind, name.clone())) {
                    false => judge(&image, &broker.config, resource),
                    true => Err(ChangeError::new(ErrorCode::InvalidRequest, REPEATED)),
                };
                (kind, name, judged)
            };
            let judged: Vec<_> = request.resources.iter().map(judge).collect();
            let finish = async |(kind, name, judged): (i8, StrBytes, Result<AlterPlan, ChangeError>)| {
                let outcome = apply(&broker, judged, request.validate_only).await;
                response(kind, name, outcome)
            };
            let responses = futures::stream::iter(judged).map(finish).buffered(CHANGES_AT_ONCE).collect().await;
            AlterConfigsResponse::default().with_responses(responses)
        }))
    }
}

fn judge(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: &AlterConfigsResource,
) -> Result<AlterPlan, ChangeError> {
    let found = resolve(image, config, resource.resource_type, &resource.resource_name)?;
    let entries: Vec<(&str, Option<&str>)> =
        resource.configs.iter().map(|entry| (&*entry.name, entry.value.as_deref())).collect();
    plan_replacement(image, config, found, &entries)
}

fn response(kind: i8, name: StrBytes, outcome: Result<(), ChangeError>) -> AlterConfigsResourceResponse {
    let response = AlterConfigsResourceResponse::default().with_resource_type(kind).with_resource_name(name);
    match outcome {
        Ok(()) => response,
        Err(error) => response
            .with_error_code(error.code.code())
            .with_error_message(Some(StrBytes::from_string(error.message))),
    }
}
