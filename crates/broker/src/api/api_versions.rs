//! ApiVersions (key 18), versions 0–4. Answers from the registry. A version above ours gets a version 0
//! body with UNSUPPORTED_VERSION and our own range (KIP-511); the dispatcher sends that one.

use std::sync::Arc;

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::{Handle, REGISTRY, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(crate) struct ApiVersions;

impl Handle for ApiVersions {
    type Request = ApiVersionsRequest;
    const VERSIONS: (i16, i16) = (0, 4);

    fn handle(
        _broker: &Arc<Broker>,
        context: RequestContext,
        request: ApiVersionsRequest,
    ) -> Reply<ApiVersionsResponse> {
        let valid = |text: &str| is_valid_client_software(text);
        if context.version >= 3 && !(valid(&request.client_software_name) && valid(&request.client_software_version)) {
            return Reply::Now(ApiVersionsResponse::default().with_error_code(42));
        }
        Reply::Now(supported())
    }
}

/// Kafka's pattern for client software names and versions: letters, digits, `-` and `.`, starting and ending
/// with a letter or digit.
fn is_valid_client_software(text: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// What this broker honours.
#[must_use]
pub(crate) fn supported() -> ApiVersionsResponse {
    let keys = REGISTRY.iter().map(|api| {
        ApiVersion::default().with_api_key(api.key).with_min_version(api.versions.0).with_max_version(api.versions.1)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

/// The answer to an ApiVersions request of a version above ours: always encoded as version 0.
#[must_use]
pub(crate) fn unsupported() -> ApiVersionsResponse {
    let own = ApiVersion::default()
        .with_api_key(ApiKey::ApiVersions as i16)
        .with_min_version(ApiVersions::VERSIONS.0)
        .with_max_version(ApiVersions::VERSIONS.1);
    ApiVersionsResponse::default().with_error_code(35).with_api_keys(vec![own])
}
