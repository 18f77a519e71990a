//! IncrementalAlterConfigs (key 44), versions 0–1: sets, removes, extends and shortens single values.

use std::sync::Arc;

use futures::StreamExt;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::{Command, MetadataImage};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::BrokerConfig;
use crate::config::alter::{AlterPlan, Alteration, Operation, REPEATED, plan, repeated, resolve};
use crate::topics::{ChangeError, Deadline, submit};

/// See the module.
pub struct IncrementalAlterConfigs;

/// Resources of one request that are being changed at the same time.
const CHANGES_AT_ONCE: usize = 64;
/// How long a request waits for its changes: the protocol does not say.
const WAIT_MS: i32 = 30_000;

impl Handle for IncrementalAlterConfigs {
    type Request = IncrementalAlterConfigsRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: IncrementalAlterConfigsRequest,
    ) -> Reply<IncrementalAlterConfigsResponse> {
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
            IncrementalAlterConfigsResponse::default().with_responses(responses)
        }))
    }
}

fn judge(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: &AlterConfigsResource,
) -> Result<AlterPlan, ChangeError> {
    let mut alterations = Vec::with_capacity(resource.configs.len());
    for change in &resource.configs {
        let operation = Operation::from_code(change.config_operation).ok_or_else(|| {
            let message = format!("Unknown operation type {}", change.config_operation);
            ChangeError::new(ErrorCode::InvalidRequest, message)
        })?;
        alterations.push(Alteration { name: &change.name, operation, value: change.value.as_deref() });
    }
    let found = resolve(image, config, resource.resource_type, &resource.resource_name)?;
    plan(image, config, found, &alterations)
}

/// Submits a plan, unless it is only to be judged or changes nothing.
pub(super) async fn apply(
    broker: &Broker,
    judged: Result<AlterPlan, ChangeError>,
    validate_only: bool,
) -> Result<(), ChangeError> {
    let plan = judged?;
    if validate_only || plan.changes.is_empty() {
        return Ok(());
    }
    let command = Command::AlterConfigs { resource: plan.resource, changes: plan.changes };
    submit(broker, Deadline::after_ms(broker, WAIT_MS), command).await.map(|_| ())
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
