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
            Ok(submitted) => reply_all(&broker.groups, submitted, combine),
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
