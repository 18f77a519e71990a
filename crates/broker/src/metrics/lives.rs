//! Metrics of a broker among others: its lease, its log's room, moves, and on the active controller the lives it ends.

use std::fmt::Result as FmtResult;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::exposition::gauge;
use crate::Broker;
use crate::cluster::peer::Lane;

/// Longer than this is as good as for ever.
const LEFT_SECONDS_MAX: u64 = 30 * 24 * 3_600;

/// Leases, fail-overs, moves, and how long the log lasts without its object store.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, broker: &Broker) -> FmtResult {
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let (controller, moves) = (&broker.member.controller, &broker.mover.counters);
    let (fail_overs, done) = controller.fail_overs();
    let lease_ms = broker.lease.left().as_millis().min(u128::from(u32::MAX)) as usize;
    let wal_left = broker.wal.capacity().saturating_sub(broker.wal.used());
    let image = broker.metadata.image();
    for (name, help, value) in [
        ("ottla_lease_left_milliseconds", "How long this broker may serve without another heartbeat", lease_ms),
        (
            "ottla_controller_leases",
            "Brokers with a lease; 0 but on the active controller",
            controller.leases().unwrap_or(0),
        ),
        (
            "ottla_metadata_backup_age_seconds",
            "For how long the object store has not held all of metadata; 0 but on the active controller",
            count(broker.member.backup.age().unwrap_or_default().as_secs()),
        ),
        ("ottla_controller_fail_overs_in_flight", "Brokers whose lives are being ended", fail_overs),
        ("ottla_moves_in_flight", "Partitions being given away", moves.under_way.load(Ordering::Relaxed)),
        ("ottla_wal_left_bytes", "Bytes the log takes before it waits for uploads", count(wal_left)),
        (
            "ottla_wal_left_seconds",
            "How long the log lasts without uploads if as much is written as lately; 30 days stand for all that is longer",
            count(wal_left_seconds(broker, wal_left)),
        ),
        (
            "ottla_adoptions_in_flight",
            "Tails of lost brokers' logs that this broker leads and has not uploaded yet",
            image.unretired_tails(broker.config.node_id),
        ),
        (
            "ottla_move_blackout_max_microseconds",
            "Longest that a partition took no appends because it moved",
            count(moves.blackout_us_max.load(Ordering::Relaxed)),
        ),
    ] {
        gauge(encoder, name, help, value)?;
    }
    for (name, help, value) in [
        ("ottla_controller_fail_overs", "Brokers whose lives this controller ended", done),
        ("ottla_moved_partitions", "Partitions given away", moves.moved.load(Ordering::Relaxed)),
        (
            "ottla_unmoved_partitions",
            "Partitions that should have been given away and stayed",
            moves.failed.load(Ordering::Relaxed),
        ),
        (
            "ottla_balancer_decisions",
            "Partitions that this node's balancer decided to move, done or only told",
            broker.member.balancing.decided(),
        ),
        ("ottla_moved_tail_bytes", "Bytes of tails sent to other brokers", moves.tail_bytes.load(Ordering::Relaxed)),
        (
            "ottla_peer_bytes",
            "Bytes of messages sent to and received from other brokers by this one's calls",
            broker.member.peers.bytes_moved(Lane::Control) + broker.member.peers.bytes_moved(Lane::Bulk),
        ),
    ] {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

/// At the rate of the last looks at these metrics.
fn wal_left_seconds(broker: &Broker, left: u64) -> u64 {
    let written = broker.wal.durable().get().0;
    let rate = broker.metrics.log_growth.look(broker.clock.boot(), written).unwrap_or(0.0);
    // A float beyond what fits becomes the greatest that does.
    ((left as f64 / rate.max(f64::MIN_POSITIVE)) as u64).min(LEFT_SECONDS_MAX)
}
