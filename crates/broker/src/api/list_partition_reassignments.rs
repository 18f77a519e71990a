//! ListPartitionReassignments (key 46), version 0. Replicas are virtual and change at once: nothing is ever under way.

use std::sync::Arc;

use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(super) struct ListPartitionReassignments;

impl Handle for ListPartitionReassignments {
    type Request = ListPartitionReassignmentsRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        _broker: &Arc<Broker>,
        _context: RequestContext,
        _request: ListPartitionReassignmentsRequest,
    ) -> Reply<ListPartitionReassignmentsResponse> {
        Reply::Now(ListPartitionReassignmentsResponse::default())
    }
}
