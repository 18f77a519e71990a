//! At most one thing under way for each node.

use std::collections::BTreeSet;
use std::future::Future;

use common::NodeId;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

/// See the module. Each task ends with the node that it was for.
pub(super) struct OneEach<F> {
    busy: BTreeSet<NodeId>,
    under_way: FuturesUnordered<F>,
}

impl<F: Future<Output = NodeId>> OneEach<F> {
    pub(super) fn none() -> Self {
        Self { busy: BTreeSet::new(), under_way: FuturesUnordered::new() }
    }

    /// Begins `task`, or drops it where another one is under way for the node.
    pub(super) fn begin(&mut self, node: NodeId, task: F) {
        if self.busy.insert(node) {
            self.under_way.push(task);
        }
    }

    /// Works on all of them; completes when one has ended.
    pub(super) async fn ended(&mut self) {
        match self.under_way.next().await {
            Some(node) => drop(self.busy.remove(&node)),
            None => std::future::pending().await,
        }
    }
}
