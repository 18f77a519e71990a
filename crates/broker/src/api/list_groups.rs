//! ListGroups (key 16), versions 0–5: the groups this broker coordinates. Version 4 brings filters by state, 5 by
//! type.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply_all;

/// See the module.
pub(super) struct ListGroups;

impl Handle for ListGroups {
    type Request = ListGroupsRequest;
    const VERSIONS: (i16, i16) = (0, 5);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: ListGroupsRequest) -> Reply<ListGroupsResponse> {
        let submitted = broker.groups.submit_to_all(&Context::version(context.version), &Request::List(request));
        match submitted {
            Ok(submitted) => reply_all(broker.groups.durable(), submitted, combine),
            Err(code) => Reply::Now(ListGroupsResponse::default().with_error_code(code.code())),
        }
    }
}

fn combine(parts: Vec<Result<Response, ErrorCode>>) -> ListGroupsResponse {
    let mut response = ListGroupsResponse::default();
    for part in parts {
        match part {
            Ok(Response::List(groups)) => response.groups.extend(groups),
            Ok(_) => response.error_code = ErrorCode::UnknownServerError.code(),
            Err(code) => response.error_code = code.code(),
        }
    }
    if response.error_code != 0 {
        // A part of the groups would look like all of them.
        response.groups.clear();
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::list_groups_response::ListedGroup;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn groups_encode_in_every_version() {
        let group = ListedGroup::default()
            .with_group_state(StrBytes::from_static_str("Stable"))
            .with_group_type(StrBytes::from_static_str("classic"));
        let response = combine(vec![Ok(Response::List(vec![group])), Ok(Response::List(Vec::new()))]);
        assert_eq!(response.groups.len(), 1);
        for version in ListGroups::VERSIONS.0..=ListGroups::VERSIONS.1 {
            let encoded = response.encode(&mut BytesMut::new(), version);
            assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        }
    }

    #[test]
    fn a_part_of_the_groups_is_an_error_and_not_all_of_them() {
        let parts = vec![Ok(Response::List(vec![ListedGroup::default()])), Err(ErrorCode::NotCoordinator)];
        let response = combine(parts);
        assert_eq!((response.error_code, response.groups.len()), (16, 0));
    }
}
