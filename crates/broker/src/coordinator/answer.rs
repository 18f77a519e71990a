//! From a shard's response to a client's.

use std::sync::Arc;

use common::Lsn;
use protocol::ErrorCode;
use tokio::sync::oneshot;
use wal::DurableLsn;

use crate::api::Reply;

/// A request that a shard took, or not.
pub(crate) enum Submitted<R> {
    /// Answered; to be sent once the log is durable up to the position.
    Now(Lsn, R),
    /// Waits for others. The sender is dropped if the shard goes away first.
    Later(oneshot::Receiver<(Lsn, R)>),
    /// Nothing has happened.
    Refused(ErrorCode),
}

impl<R> Submitted<R> {
    /// The response, once it may be sent.
    pub(crate) async fn durable(self, durable: Arc<DurableLsn>) -> Result<R, ErrorCode> {
        let (lsn, response) = match self {
            Self::Now(lsn, response) => (lsn, response),
            Self::Later(waiting) => waiting.await.map_err(|_| ErrorCode::NotCoordinator)?,
            Self::Refused(code) => return Err(code),
        };
        // Whether the records survive a failed log only recovery can tell: the client asks again.
        durable.wait(lsn).await.map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
        Ok(response)
    }
}

/// Turns what became of a request into its reply: `take` picks the response, `refuse` makes one of an error.
pub(crate) fn reply<R: Send + 'static, T: Send + 'static>(
    durable: &Arc<DurableLsn>,
    submitted: Submitted<R>,
    take: impl FnOnce(R) -> Option<T> + Send + 'static,
    refuse: impl FnOnce(ErrorCode) -> T + Send + 'static,
) -> Reply<T> {
    match submitted {
        Submitted::Now(lsn, response) => match take(response) {
            Some(response) => Reply::Durable(lsn, response),
            None => Reply::Now(refuse(ErrorCode::UnknownServerError)),
        },
        Submitted::Refused(code) => Reply::Now(refuse(code)),
        later @ Submitted::Later(_) => {
            let durable = Arc::clone(durable);
            Reply::Later(Box::pin(async move {
                match later.durable(durable).await.map(take) {
                    Ok(Some(response)) => response,
                    Ok(None) => refuse(ErrorCode::UnknownServerError),
                    Err(code) => refuse(code),
                }
            }))
        }
    }
}

/// As [`reply`], for a request that went to several shards: `combine` gets what became of each part, in order.
pub(crate) fn reply_all<R: Send + 'static, T: Send + 'static>(
    durable: &Arc<DurableLsn>,
    submitted: Vec<Submitted<R>>,
    combine: impl FnOnce(Vec<Result<R, ErrorCode>>) -> T + Send + 'static,
) -> Reply<T> {
    if submitted.iter().any(|one| matches!(one, Submitted::Later(_))) {
        let durable = Arc::clone(durable);
        return Reply::Later(Box::pin(async move {
            let parts = submitted.into_iter().map(|one| one.durable(Arc::clone(&durable)));
            combine(futures::future::join_all(parts).await)
        }));
    }
    let mut until = Lsn(0);
    let parts = submitted.into_iter().map(|one| match one {
        Submitted::Now(lsn, response) => {
            until = until.max(lsn);
            Ok(response)
        }
        Submitted::Refused(code) => Err(code),
        Submitted::Later(_) => Err(ErrorCode::UnknownServerError),
    });
    let parts = parts.collect();
    Reply::Durable(until, combine(parts))
}
