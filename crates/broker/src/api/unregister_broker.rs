//! UnregisterBroker (key 64), version 0: forgets a broker that is gone. Refused while it is alive, leads partitions, or its
//! write-ahead log may hold what nobody else has.

use std::sync::Arc;

use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::Command;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::topics::{ChangeError, Deadline, submit};

/// See the module.
pub(super) struct UnregisterBroker;

/// The request names no time to wait: clients give up after about that long.
const WAIT_MS: i32 = 30_000;

impl Handle for UnregisterBroker {
    type Request = UnregisterBrokerRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: UnregisterBrokerRequest,
    ) -> Reply<UnregisterBrokerResponse> {
        let broker = Arc::clone(broker);
        let deadline = Deadline::after_ms(&broker, WAIT_MS);
        let node = common::NodeId(request.broker_id.0);
        Reply::Later(Box::pin(async move {
            answer(submit(&broker, deadline, Command::UnregisterNode { node }).await.map(|_| ()))
        }))
    }
}

fn answer(outcome: Result<(), ChangeError>) -> UnregisterBrokerResponse {
    let response = UnregisterBrokerResponse::default();
    match outcome {
        Ok(()) => response,
        Err(error) => {
            let message = Some(StrBytes::from_string(error.message));
            response.with_error_code(error.code.code()).with_error_message(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use common::NodeId;
    use metadata::{MetadataImage, Outcome};

    use super::*;
    use crate::api::cluster_image::{fence, image};

    fn unregister(image: &mut MetadataImage, node: i32) -> i16 {
        let index = common::LogIndex(image.applied.0 + 1);
        let command = Command::UnregisterNode { node: NodeId(node) };
        let outcome = match metadata::state::apply(image, index, 0, &command) {
            Outcome::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        };
        answer(outcome).error_code
    }

    #[test]
    fn only_a_broker_that_is_gone_and_not_needed_is_forgotten() {
        let mut image = image(&[&[1]]);
        assert_eq!(unregister(&mut image, 2), 42, "alive");
        fence(&mut image, 2);
        assert_eq!(unregister(&mut image, 2), 0);
        assert_eq!(unregister(&mut image, 2), 102);
        fence(&mut image, 1);
        assert_eq!(unregister(&mut image, 1), 42, "leads a partition");
    }
}
