//! Objects that only belong to the time before metadata was restored: looked at, and deleted if an operator says so.
//!
//! What is deleted can never become part of a stream again. Metadata that was restored knows from which node epoch on lives are its own
//! (`collect_from`); it refuses commits of earlier ones, and so does every later state of it. So what it does not know of
//! those epochs now it will never know. Only a broker with a lease answers: one of a quorum that was given up may hold an older
//! state for the present one.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use common::{NodeEpoch, ObjectId};
use s3stream::orphans::{Orphan, Orphans};
use serde_json::{Value, json};

use super::cluster::{Answer, refused, told};
use crate::Broker;

const HOUR_MS: i64 = 3_600_000;

fn unavailable(error: &object_store::Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("object store: {error}\n"))
}

/// Node epochs from before the restore of which the store has objects.
pub(super) async fn epochs(State(broker): State<Arc<Broker>>) -> Answer {
    let below = broker.metadata.image().collect_from;
    let epochs = match below {
        NodeEpoch(0) => Vec::new(),
        _ => broker.streams.epochs_in_store(below).await.map_err(|error| unavailable(&error))?,
    };
    let epochs: Vec<u64> = epochs.iter().map(|epoch| epoch.0).collect();
    Ok(told(&json!({ "restored": below != NodeEpoch(0), "epochs": epochs })))
}

/// Orphans of one of them, put at least so many hours ago.
pub(super) async fn find(State(broker): State<Arc<Broker>>, Path((epoch, hours)): Path<(u64, u32)>) -> Answer {
    Ok(describe(&broker, &look(&broker, NodeEpoch(epoch), hours).await?))
}

/// Deletes those that it names in the answer. More may be left.
pub(super) async fn delete(State(broker): State<Arc<Broker>>, Path((epoch, hours)): Path<(u64, u32)>) -> Answer {
    let orphans = look(&broker, NodeEpoch(epoch), hours).await?;
    broker.streams.delete_orphans(&orphans.named).await.map_err(|error| unavailable(&error))?;
    tracing::info!(
        epoch,
        deleted = orphans.named.len(),
        "deleted orphans of before the restore, as an operator wished"
    );
    Ok(describe(&broker, &orphans))
}

async fn look(broker: &Broker, epoch: NodeEpoch, hours: u32) -> Result<Orphans, (StatusCode, String)> {
    if !broker.lease.is_valid() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this broker has no lease: ask another one\n".to_owned()));
    }
    let image = broker.metadata.image();
    if epoch >= image.collect_from {
        return Err(refused(format!(
            "node epoch {epoch} is not from before a restore: its orphans are collected anyway"
        )));
    }
    let before_ms = broker.clock.wall_ms().saturating_sub(i64::from(hours) * HOUR_MS);
    let is_committed = |id: ObjectId, attempt: u32| {
        image.objects.get(&id).is_some_and(|known| known.node_epoch == epoch && known.attempt == attempt)
    };
    broker.streams.orphans(epoch, before_ms, is_committed).await.map_err(|error| unavailable(&error))
}

fn describe(broker: &Broker, orphans: &Orphans) -> axum::response::Response {
    let now_ms = broker.clock.wall_ms();
    let named = orphans.named.iter().map(|Orphan { key, bytes, put_ms }| {
        let age_hours = now_ms.saturating_sub(*put_ms) / HOUR_MS;
        json!({ "key": key.as_ref(), "bytes": bytes, "age_hours": age_hours })
    });
    let named: Vec<Value> = named.collect();
    told(&json!({ "count": orphans.count, "bytes": orphans.bytes, "named": named }))
}
