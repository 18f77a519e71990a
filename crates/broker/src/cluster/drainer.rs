//! Gives away what this broker leads: when an operator drains it, and before it stops.

use std::sync::Arc;
use std::time::Duration;

use common::Clock;
use metadata::placement::plan_drain;
use metadata::{Command, MetadataClient, NodeDraining, Outcome};

use super::mover::Mover;

/// Pause before what did not go is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Drains whenever metadata says so.
pub(crate) async fn run(mover: Arc<Mover>, metadata: MetadataClient) {
    let mut applied = metadata.watch();
    loop {
        applied.borrow_and_update();
        let image = metadata.image();
        let node = image.nodes.get(&mover.node());
        let plan = match node.map(|node| node.draining) {
            Some(NodeDraining::ByOperator) => plan_drain(&image, mover.node()),
            _ => Vec::new(),
        };
        if !plan.is_empty() {
            mover.give_away(plan).await;
            tokio::time::sleep(RETRY).await;
        } else if applied.changed().await.is_err() {
            // The end of metadata is the end of the broker, which is told elsewhere.
            return;
        }
    }
}

/// Gives everything away before a stop, for at most `at_most`. What is left has to be adopted.
pub(crate) async fn leave(mover: &Mover, metadata: &MetadataClient, clock: &dyn Clock, at_most: Duration) {
    let since = clock.boot();
    let (node, node_epoch) = mover.life();
    if plan_drain(&metadata.image(), node).is_empty() {
        return;
    }
    match metadata.submit(Command::StopNode { node, node_epoch }).await {
        Ok(Outcome::Done) => {}
        other => tracing::warn!(?other, "metadata did not note that this broker is stopping"),
    }
    while clock.boot().saturating_sub(since) < at_most {
        let plan = plan_drain(&metadata.image(), node);
        if plan.is_empty() {
            return;
        }
        if mover.give_away(plan).await == 0 {
            tokio::time::sleep(RETRY).await;
        }
    }
}
