use common::Offset;
use protocol::batch::BatchBuilder;

use super::rig::{NOW, Rig, accepted};
use crate::partition::{FoundOffset, Isolation, Partition};

fn push(partition: &Partition, timestamps: &[i64]) {
    let mut builder = BatchBuilder::new();
    timestamps.iter().for_each(|timestamp| builder.push(NOW + timestamp, Some(b"k"), None));
    accepted(partition, &builder.build(0, -1));
}

async fn at(partition: &Partition, timestamp: i64) -> (i64, i64) {
    let found = partition.find_timestamp(NOW + timestamp, Isolation::ReadUncommitted).await.expect("searches");
    (found.offset, if found.offset < 0 { -1 } else { found.timestamp_ms - NOW })
}

#[tokio::test]
async fn the_first_record_at_or_after_a_timestamp() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    push(&partition, &[10, 30, 20]);
    push(&partition, &[5, 50]);
    push(&partition, &[40]);
    for _ in 0..2 {
        assert_eq!(at(&partition, -5).await, (0, 10));
        assert_eq!(at(&partition, 11).await, (1, 30));
        assert_eq!(at(&partition, 31).await, (4, 50));
        assert_eq!(at(&partition, 51).await, (-1, -1));
        let newest = partition.find_max_timestamp(Isolation::ReadCommitted).await.expect("searches");
        assert_eq!(newest, FoundOffset { offset: 4, timestamp_ms: NOW + 50, leader_epoch: 0 });
        // Once more from objects.
        rig.store.flush().await.expect("uploads");
    }
}

#[tokio::test]
async fn nothing_is_found_in_an_empty_log_or_above_the_high_watermark() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    assert_eq!(partition.find_max_timestamp(Isolation::ReadUncommitted).await.expect("searches"), FoundOffset::NONE);
    push(&partition, &[10]);
    assert_eq!(at(&partition, 0).await, (-1, -1));
    assert_eq!(partition.find_max_timestamp(Isolation::ReadUncommitted).await.expect("searches"), FoundOffset::NONE);
    rig.log.flush();
    assert_eq!(at(&partition, 0).await, (0, 10));
}

#[tokio::test]
async fn what_was_deleted_is_not_found_within_a_batch_that_is_left() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    push(&partition, &[90, 10, 20]);
    push(&partition, &[30, 40]);
    push(&partition, &[95]);
    partition.trim(Offset(1)).await.expect("trims");
    assert_eq!(at(&partition, 15).await, (2, 20));
    assert_eq!(at(&partition, 25).await, (3, 30), "the first batch promises 90, but that record is gone");
    assert_eq!(at(&partition, 60).await, (5, 95));
}
