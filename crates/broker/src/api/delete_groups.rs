//! DeleteGroups (key 42), versions 0–2: removes groups without members, and their offsets.

use std::collections::BTreeSet;
use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply_all;

/// See the module.
pub(super) struct DeleteGroups;

impl Handle for DeleteGroups {
    type Request = DeleteGroupsRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: DeleteGroupsRequest,
    ) -> Reply<DeleteGroupsResponse> {
        let mut seen = BTreeSet::new();
        let distinct: Vec<GroupId> =
            request.groups_names.into_iter().filter(|group| seen.insert(group.to_string())).collect();
        let of = Context::version(context.version);
        let submit =
            |group: &GroupId| broker.groups.submit(group, &of, &Request::DeleteGroups(vec![group.as_str().into()]));
        let submitted = distinct.iter().map(submit).collect();
        reply_all(broker.groups.durable(), submitted, move |parts| {
            let results = distinct.into_iter().zip(parts).map(|(id, part)| result(id, part));
            DeleteGroupsResponse::default().with_results(results.collect())
        })
    }
}

fn result(id: GroupId, part: Result<Response, ErrorCode>) -> DeletableGroupResult {
    let code = match part {
        Ok(Response::DeleteGroups(mut results)) if results.len() == 1 => return results.swap_remove(0),
        Ok(_) => ErrorCode::UnknownServerError,
        Err(code) => code,
    };
    DeletableGroupResult::default().with_group_id(id).with_error_code(code.code())
}
