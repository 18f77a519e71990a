//! DescribeConfigs (key 32), versions 1–4, of topics and brokers; from 3 with types and, on demand,
//! documentation. No keys, or null, asks for all of them.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::{ConfigResource, MetadataImage};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::alter::{BROKER_LOGGER_RESOURCE, BROKER_RESOURCE, REPEATED, TOPIC_RESOURCE, repeated, resolve};
use crate::config::{BrokerConfig, Described, describe};
use crate::loggers;
use crate::topics::{ChangeError, check_name};

/// See the module.
pub(crate) struct DescribeConfigs;

impl Handle for DescribeConfigs {
    type Request = DescribeConfigsRequest;
    const VERSIONS: (i16, i16) = (1, 4);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: DescribeConfigsRequest,
    ) -> Reply<DescribeConfigsResponse> {
        let image = broker.metadata.image();
        let named = |resource: &DescribeConfigsResource| (resource.resource_type, resource.resource_name.clone());
        // Kafka answers them each time, and so lets a small request ask for a huge answer.
        let repeated = repeated(request.resources.iter().map(named));
        let results = request.resources.iter().map(|resource| match repeated.contains(&named(resource)) {
            false => result(broker, &image, &request, resource),
            true => refuse(resource, ChangeError::new(ErrorCode::InvalidRequest, REPEATED)),
        });
        Reply::Now(DescribeConfigsResponse::default().with_results(results.collect()))
    }
}

fn result(
    broker: &Broker,
    image: &MetadataImage,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
) -> DescribeConfigsResult {
    let keys: HashSet<&str> = resource.configuration_keys.iter().flatten().map(|key| &**key).collect();
    let wanted = |name: &str| keys.is_empty() || keys.contains(name);
    if resource.resource_type == BROKER_LOGGER_RESOURCE {
        return match loggers::describe(broker, &resource.resource_name) {
            Ok(levels) => empty(resource).with_configs(
                levels.into_iter().filter(|(name, _)| wanted(name)).map(|(name, level)| logger(name, level)).collect(),
            ),
            Err(error) => refuse(resource, error),
        };
    }
    let config = &broker.config;
    match find(image, config, resource) {
        Ok(found) => {
            let described = describe(image, config, &found, &wanted);
            empty(resource).with_configs(described.into_iter().map(|one| encode(one, request)).collect())
        }
        Err(error) => refuse(resource, error),
    }
}

fn empty(resource: &DescribeConfigsResource) -> DescribeConfigsResult {
    DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
}

fn refuse(resource: &DescribeConfigsResource, error: ChangeError) -> DescribeConfigsResult {
    empty(resource).with_error_code(error.code.code()).with_error_message(Some(StrBytes::from_string(error.message)))
}

/// Kafka's number for the level of a logger.
const LOGGER_SOURCE: i8 = 6;

fn logger(name: String, level: &'static str) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_string(name))
        .with_value(Some(StrBytes::from_static_str(level)))
        .with_config_source(LOGGER_SOURCE)
}

/// As [`resolve`], but with Kafka's other answers to a topic without a name and to what has no configuration.
fn find(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: &DescribeConfigsResource,
) -> Result<ConfigResource, ChangeError> {
    if !matches!(resource.resource_type, TOPIC_RESOURCE | BROKER_RESOURCE) {
        return Err(ChangeError::plain(ErrorCode::InvalidRequest));
    }
    if resource.resource_type == TOPIC_RESOURCE {
        check_name(&resource.resource_name)
            .map_err(|message| ChangeError::new(ErrorCode::InvalidTopicException, message))?;
    }
    resolve(image, config, resource.resource_type, &resource.resource_name)
}

fn encode(described: Described, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let is_sensitive = described.is_sensitive;
    let synonym = |synonym: crate::config::Synonym| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_string(synonym.name))
            .with_value((!is_sensitive).then(|| StrBytes::from_string(synonym.value)))
            .with_source(synonym.source as i8)
    };
    let synonyms = match request.include_synonyms {
        true => described.synonyms.into_iter().map(synonym).collect(),
        false => Vec::new(),
    };
    let documentation = request.include_documentation.then(|| StrBytes::from_static_str(described.documentation));
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_string(described.name))
        .with_value(described.value.map(StrBytes::from_string))
        .with_read_only(described.is_read_only)
        .with_config_source(described.source as i8)
        .with_is_sensitive(is_sensitive)
        .with_synonyms(synonyms)
        .with_config_type(described.type_code)
        .with_documentation(documentation.filter(|text| !text.is_empty()))
}
