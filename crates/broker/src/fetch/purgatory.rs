//! Reads many partitions for one request, and parks the request while there is too little to return: Kafka's
//! `DelayedFetch`. Limits as in KIP-74: partitions in request order, whole batches only, and the first partition
//! that has data returns at least one batch however large it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Offset;
use common::budget::ByteLease;
use protocol::ErrorCode;
use s3stream::ReadClass;

use super::response::{FetchAnswer, LeaderEndpoint, PartitionAnswer};
use super::session::{FetchKey, FetchWish, Told};
use crate::Broker;
use crate::partition::{DataWait, Isolation, LookupError, Partition, ReadError};

/// Most bytes that one request loads from the log or the store.
const LOAD_BYTES_MAX: usize = 8 << 20;
/// Part of the budget that one request gets while others wait.
const SHARES: u64 = 64;
/// How long a fetch whose client does not wait at all waits for its share of the response budget.
const BUDGET_WAIT_MIN: Duration = Duration::from_secs(1);

/// Where a reading may take records from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Memory that the caches hold already.
    Memory,
    /// The log and the object store as well.
    Any,
}

/// What a request asks as a whole.
#[derive(Clone, Copy, Debug)]
pub struct FetchParameters {
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth returning before that.
    pub min_bytes: usize,
    /// Most bytes of the whole response, except for one oversized first batch.
    pub max_bytes: usize,
    /// How far to read.
    pub isolation: Isolation,
    /// Topics are named by id.
    pub by_topic_id: bool,
}

impl From<&PartitionAnswer> for Told {
    fn from(answer: &PartitionAnswer) -> Self {
        Self {
            high_watermark: answer.high_watermark,
            log_start: answer.log_start_offset,
            error: answer.error_code != 0,
            has_records: !answer.records.is_empty(),
        }
    }
}

/// Answers every wish, waiting as `parameters` says. The lease covers the records' memory; `listener` is where the
/// client is told to find other leaders.
pub async fn fetch(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    parameters: &FetchParameters,
    listener: &str,
) -> (FetchAnswer, Option<ByteLease>) {
    let found: Vec<Found> = wishes.iter().map(|(key, wish)| find(broker, key, *wish, parameters.by_topic_id)).collect();
    let mut pass = read(wishes, &found, parameters, parameters.max_bytes, Source::Memory).await;
    if !parameters.max_wait.is_zero() && !wishes.is_empty() && !pass.is_enough(parameters.min_bytes) {
        pass = park(broker, wishes, &found, parameters, pass).await;
    }
    within_budget(broker, wishes, &found, parameters, pass).await.into_answer(broker, listener)
}

/// Re-reads whenever one of the partitions has news, until there is enough or the time is over.
async fn park(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    mut pass: Pass,
) -> Pass {
    let deadline = tokio::time::sleep(parameters.max_wait);
    tokio::pin!(deadline);
    while !pass.is_enough(parameters.min_bytes) {
        // A parked fetch holds no cache memory, however long its client lets it wait.
        pass.release();
        let mut wait = DataWait::new(broker.wal.durable());
        for (found, (_, answer)) in found.iter().zip(&pass.partitions) {
            if let Ok(partition) = found {
                // News is what lies above the high watermark that was just read; what lies below is counted.
                wait.watch(partition, Offset(answer.high_watermark));
            }
        }
        let is_over = tokio::select! {
            () = &mut deadline => true,
            () = wait.woken() => false,
        };
        if is_over && pass.bytes == 0 {
            return pass;
        }
        pass = read(wishes, found, parameters, parameters.max_bytes, Source::Memory).await;
        if is_over {
            return pass;
        }
    }
    pass
}

/// The partition a wish names, or the error it gets.
type Found = Result<Arc<Partition>, PartitionAnswer>;

/// One reading of all partitions.
struct Pass {
    partitions: Vec<(FetchKey, PartitionAnswer)>,
    bytes: usize,
    /// `bytes`, or the limit where there is more than that: whole batches rarely fill it. As Kafka counts towards
    /// the least a client waits for.
    available: usize,
    errors: bool,
    /// Whether something is left out because it needs I/O.
    unloaded: bool,
    lease: Option<ByteLease>,
}

impl Pass {
    fn is_enough(&self, min_bytes: usize) -> bool {
        self.errors || self.unloaded || self.available >= min_bytes
    }

    /// Lets go of the records; what was counted stays.
    fn release(&mut self) {
        self.partitions.iter_mut().for_each(|(_, answer)| answer.records = Vec::new());
    }

    fn into_answer(self, broker: &Broker, listener: &str) -> (FetchAnswer, Option<ByteLease>) {
        let hints = self.partitions.iter().filter_map(|(_, answer)| answer.current_leader);
        let endpoints = leader_endpoints(broker, hints.map(|(leader, _)| leader), listener);
        let answer = FetchAnswer { partitions: self.partitions, endpoints, ..FetchAnswer::default() };
        (answer, self.lease)
    }
}

/// Leases the memory of what was read, and loads what is not in memory. Where the budget is short, lets go, waits for
/// a share, and reads that much. Where not even that can be had, the answer comes without records, and the client
/// asks again.
///
/// Rule **lease-before-load**: what the caches hold is bounded by them; memory beyond that is leased before it is
/// filled. Shares are small, so that many slow readers cannot keep others from going on.
async fn within_budget(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    mut pass: Pass,
) -> Pass {
    let budget = &broker.response_budget;
    if !pass.unloaded {
        if pass.bytes == 0 {
            return pass;
        }
        pass.lease = budget.try_take(pass.bytes as u64);
        if pass.lease.is_some() {
            return pass;
        }
    }
    pass.release();
    let wanted = if pass.unloaded { parameters.max_bytes.min(LOAD_BYTES_MAX) } else { pass.bytes } as u64;
    let lease = match budget.try_take(wanted) {
        Some(lease) => Some(lease),
        None => {
            let share = wanted.min(budget.limit() / SHARES);
            tokio::time::timeout(parameters.max_wait.max(BUDGET_WAIT_MIN), budget.take(share)).await.ok()
        }
    };
    let Some(mut lease) = lease else { return pass };
    let share = usize::try_from(lease.bytes()).unwrap_or(usize::MAX);
    let mut pass = read(wishes, found, parameters, share, Source::Any).await;
    lease.shrink_to(pass.bytes as u64);
    pass.lease = Some(lease);
    pass
}

async fn read(
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    max_bytes: usize,
    source: Source,
) -> Pass {
    let partitions = Vec::with_capacity(wishes.len());
    let mut pass = Pass { partitions, bytes: 0, available: 0, errors: false, unloaded: false, lease: None };
    for ((key, wish), found) in wishes.iter().zip(found) {
        let answered = match found {
            Ok(partition) => {
                let wanted = usize::try_from(wish.max_bytes).unwrap_or(0);
                let limit = wanted.min(max_bytes.saturating_sub(pass.bytes));
                read_partition(partition, *wish, limit, pass.bytes == 0, parameters.isolation, source).await
            }
            Err(error) => Answered::from(error.clone()),
        };
        pass.bytes += answered.answer.bytes();
        pass.available += answered.available;
        pass.errors |= answered.answer.error_code != 0;
        pass.unloaded |= answered.unloaded;
        pass.partitions.push((key.clone(), answered.answer));
    }
    pass
}

/// One partition's part in a reading.
struct Answered {
    answer: PartitionAnswer,
    /// How many bytes it counts for.
    available: usize,
    /// Whether its records are left out because they need I/O.
    unloaded: bool,
}

impl From<PartitionAnswer> for Answered {
    fn from(answer: PartitionAnswer) -> Self {
        Self { answer, available: 0, unloaded: false }
    }
}

async fn read_partition(
    partition: &Partition,
    wish: FetchWish,
    limit: usize,
    at_least_one: bool,
    isolation: Isolation,
    source: Source,
) -> Answered {
    let from = Offset(wish.offset);
    let mut unloaded = false;
    let read = match partition.read_cached(from, limit, isolation, at_least_one) {
        Ok(Some(read)) => Ok(read),
        Ok(None) if source == Source::Memory => {
            unloaded = true;
            // Without a byte to return nothing needs I/O.
            partition.read_cached(from, 0, isolation, false).map(Option::unwrap_or_default)
        }
        Ok(None) => partition.read(from, limit, isolation, at_least_one, ReadClass::CatchUp).await,
        Err(error) => Err(error),
    };
    match read {
        Ok(read) => {
            let available = if read.truncated { read.bytes.max(limit) } else { read.bytes };
            let answer = PartitionAnswer {
                error_code: 0,
                high_watermark: read.high_watermark.0,
                last_stable_offset: read.last_stable_offset.0,
                log_start_offset: read.log_start.0,
                aborted: (isolation == Isolation::ReadCommitted).then(Vec::new),
                current_leader: None,
                records: read.slices.into_iter().map(|slice| unpinned(slice.bytes, source)).collect(),
            };
            Answered { answer, available, unloaded }
        }
        Err(error) => {
            if let ReadError::Storage(cause) = &error {
                tracing::warn!(?partition, offset = wish.offset, %cause, "a fetch could not be served");
            }
            PartitionAnswer::error(error.code().code()).into()
        }
    }
}

/// A small slice must not pin a large block behind a slow reader: it is copied. What was loaded for this request alone
/// is copied up to a larger size, because nothing else bounds the blocks behind it.
fn unpinned(bytes: Bytes, source: Source) -> Bytes {
    let copied_below = match source {
        Source::Memory => 4 << 10,
        Source::Any => 64 << 10,
    };
    if bytes.len() < copied_below { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// Finds the partition a wish names; the error says what the client should do otherwise.
fn find(broker: &Broker, key: &FetchKey, wish: FetchWish, by_topic_id: bool) -> Found {
    let image = broker.metadata.image();
    let topic = if by_topic_id { image.topics.get(&key.topic_id) } else { image.topic(&key.topic) };
    let unknown = if by_topic_id { LookupError::UnknownTopicId } else { LookupError::UnknownTopicOrPartition };
    let found = topic.ok_or(unknown).and_then(|topic| broker.partitions.lookup(topic, key.partition));
    let partition = found.map_err(|error| {
        let answer = PartitionAnswer::error(error.code().code());
        match error {
            LookupError::NotLeader { leader, leader_epoch } => {
                PartitionAnswer { current_leader: Some((leader.0, leader_epoch)), ..answer }
            }
            _ => answer,
        }
    })?;
    match partition.check_leader_epoch(wish.leader_epoch) {
        Ok(()) => Ok(partition),
        Err(code) => {
            // Who believes in an older epoch is told the new one (KIP-951); who believes in a newer one knows better.
            let own = (broker.config.node_id.0, partition.leader_epoch());
            let current_leader = (code == ErrorCode::FencedLeaderEpoch).then_some(own);
            Err(PartitionAnswer { current_leader, ..PartitionAnswer::error(code.code()) })
        }
    }
}

fn leader_endpoints(broker: &Broker, leaders: impl Iterator<Item = i32>, listener: &str) -> Vec<LeaderEndpoint> {
    let mut ids: Vec<i32> = leaders.collect();
    ids.sort_unstable();
    ids.dedup();
    let image = broker.metadata.image();
    let endpoint = |id: &i32| {
        let node = image.nodes.get(&common::NodeId(*id))?;
        let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == listener)?;
        let rack = node.rack.as_deref().map(str::to_owned);
        Some(LeaderEndpoint { id: *id, host: endpoint.host.clone(), port: endpoint.port, rack })
    };
    ids.iter().filter_map(endpoint).collect()
}
