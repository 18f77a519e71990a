//! A shard with a clock, a log of all its records, and a source of producer ids.

use std::sync::Arc;

use protocol::ErrorCode;

use crate::transaction::{
    MarkerTask, PersistedTransactions, ProducerIdAndEpoch, ProducerRequest, TransactionConfig, TransactionContext,
    TransactionMetadata, TransactionOutput, TransactionRecord, TransactionRequest, TransactionResponse,
    TransactionShard, TransactionState,
};
use crate::{Now, Token};

pub(crate) const ID: &str = "tx";
pub(crate) const TIMEOUT_MS: i32 = 60_000;
pub(crate) const TV1: i8 = 0;
pub(crate) const TV2: i8 = 2;
/// The first id that is leased.
pub(crate) const FIRST_ID: i64 = 1_000;

pub(crate) struct Harness {
    pub(crate) shard: TransactionShard,
    pub(crate) now: Now,
    pub(crate) log: Vec<TransactionRecord>,
    /// Tasks of all outputs so far.
    pub(crate) markers: Vec<MarkerTask>,
    /// Every producer id leased, in order.
    pub(crate) leased: Vec<i64>,
    config: Arc<TransactionConfig>,
    last_token: u64,
}

pub(crate) fn producer(producer_id: i64, epoch: i16) -> ProducerIdAndEpoch {
    ProducerIdAndEpoch { producer_id, epoch }
}

pub(crate) fn partitions(topic: &str, indexes: &[i32]) -> Vec<(Arc<str>, i32)> {
    indexes.iter().map(|index| (Arc::from(topic), *index)).collect()
}

pub(crate) fn of(id: &str, producer: ProducerIdAndEpoch) -> ProducerRequest {
    ProducerRequest { transactional_id: id.into(), producer }
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(TransactionConfig::default())
    }

    pub(crate) fn with(config: TransactionConfig) -> Self {
        let config = Arc::new(config);
        let now = Now { wall_ms: 1_700_000_000_000, boot_ms: 5_000 };
        let shard = TransactionShard::load(Arc::clone(&config), PersistedTransactions::default(), now);
        Self { shard, now, log: Vec::new(), markers: Vec::new(), leased: Vec::new(), config, last_token: 0 }
    }

    /// Replaces what is recorded of [`ID`], as if read from a log.
    pub(crate) fn record(&mut self, change: impl FnOnce(&mut TransactionMetadata)) {
        let mut metadata = self.transaction().clone();
        change(&mut metadata);
        self.log.push(TransactionRecord { transactional_id: ID.into(), value: Some(metadata) });
        let mut persisted = PersistedTransactions::default();
        self.log.iter().for_each(|record| persisted.replay(record));
        self.shard = TransactionShard::load(Arc::clone(&self.config), persisted, self.now);
    }

    /// A new shard from the log alone, as after a crash.
    pub(crate) fn restart(&mut self) {
        self.advance(1);
        let mut persisted = PersistedTransactions::default();
        self.log.iter().for_each(|record| persisted.replay(record));
        assert_eq!(&persisted, self.shard.persisted(), "replaying the records gives the persisted state");
        assert_eq!(PersistedTransactions::restore(&self.shard.checkpoint()).as_ref(), Ok(&persisted), "checkpoint");
        self.shard = TransactionShard::load(Arc::clone(&self.config), persisted, self.now);
        self.markers = self.shard.pending_markers();
    }

    /// Appends what a call brought about.
    pub(crate) fn append(&mut self, output: &TransactionOutput) {
        for record in &output.records {
            let (key, value) = record.encode().expect("a record within its limits");
            let decoded = TransactionRecord::decode(&key, value.as_deref());
            assert_eq!(decoded, Ok(Some(record.clone())), "bytes and back");
        }
        self.shard.apply(&output.records);
        self.log.extend_from_slice(&output.records);
        self.markers.extend_from_slice(&output.markers);
    }

    pub(crate) fn lease(&mut self) -> i64 {
        let leased = FIRST_ID + i64::try_from(self.leased.len()).expect("few");
        self.leased.push(leased);
        leased
    }

    /// Hands a request in, again with a fresh producer id if it takes one; nothing is appended.
    pub(crate) fn try_request(&mut self, request: &TransactionRequest) -> TransactionOutput {
        self.last_token += 1;
        let token = Token(self.last_token);
        let before = self.shard.persisted().clone();
        let mut output = self.shard.handle(token, &TransactionContext::default(), request, self.now);
        if output.responses == [(token, TransactionResponse::NeedsProducerId)] {
            assert!(output.records.is_empty() && output.markers.is_empty(), "nothing was done");
            let context = TransactionContext { fresh_producer_id: Some(self.lease()) };
            output = self.shard.handle(token, &context, request, self.now);
        }
        assert_eq!(self.shard.persisted(), &before, "only apply changes what is persisted");
        assert_eq!(output.responses.len(), 1, "one answer");
        assert_eq!(output.responses[0].0, token);
        output
    }

    pub(crate) fn request(&mut self, request: &TransactionRequest) -> TransactionResponse {
        let output = self.try_request(request);
        self.append(&output);
        output.responses[0].1.clone()
    }

    pub(crate) fn init(&mut self, expected: Option<ProducerIdAndEpoch>) -> Result<ProducerIdAndEpoch, ErrorCode> {
        self.init_with(ID, TIMEOUT_MS, expected)
    }

    pub(crate) fn init_with(
        &mut self,
        id: &str,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        let request = TransactionRequest::InitProducerId { transactional_id: id.into(), timeout_ms, expected };
        match self.request(&request) {
            TransactionResponse::InitProducerId(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn add(&mut self, producer: ProducerIdAndEpoch, indexes: &[i32], version: i8) -> Result<(), ErrorCode> {
        let request = TransactionRequest::AddPartitions {
            producer: of(ID, producer),
            partitions: partitions("topic", indexes),
            client_transaction_version: version,
        };
        match self.request(&request) {
            TransactionResponse::AddPartitions(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// The verdict on each partition of `topic`.
    pub(crate) fn verify(&mut self, producer: ProducerIdAndEpoch, indexes: &[i32]) -> Vec<ErrorCode> {
        let partitions = partitions("topic", indexes);
        let request =
            TransactionRequest::VerifyPartitions { producer: of(ID, producer), partitions: partitions.clone() };
        match self.request(&request) {
            TransactionResponse::VerifyPartitions(verified) => {
                let asked = verified.iter().map(|(topic, index, _)| (Arc::clone(topic), *index));
                assert_eq!(asked.collect::<Vec<_>>(), partitions, "each one, in order");
                verified.into_iter().map(|(.., code)| code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn end(
        &mut self,
        producer: ProducerIdAndEpoch,
        commit: bool,
        version: i8,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        let request =
            TransactionRequest::EndTxn { producer: of(ID, producer), commit, client_transaction_version: version };
        match self.request(&request) {
            TransactionResponse::EndTxn(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Partitions of `topic` have their marker, as far as the task says.
    pub(crate) fn marked(&mut self, task: &MarkerTask, indexes: &[i32]) {
        let accepted = partitions("topic", indexes);
        let output = self.shard.markers_written(task, &accepted, self.now);
        self.append(&output);
    }

    /// Every marker that is missing is written.
    pub(crate) fn complete(&mut self) {
        for task in self.shard.pending_markers() {
            let output = self.shard.markers_written(&task, &task.partitions, self.now);
            self.append(&output);
        }
    }

    pub(crate) fn advance(&mut self, ms: i64) {
        self.now.wall_ms += ms;
        self.now.boot_ms += ms;
    }

    /// Lets time pass, and the timers run that become due; gives whether a producer id was wanted.
    pub(crate) fn wait(&mut self, ms: i64) -> bool {
        let end_ms = self.now.boot_ms + ms;
        let mut wanted = false;
        while let Some(deadline_ms) = self.shard.next_deadline().filter(|deadline_ms| *deadline_ms <= end_ms) {
            self.advance((deadline_ms - self.now.boot_ms).max(0));
            let output = self.shard.on_timer(self.now);
            self.append(&output);
            wanted |= output.wants_producer_id;
        }
        self.advance(end_ms - self.now.boot_ms);
        wanted
    }

    pub(crate) fn transaction(&self) -> &TransactionMetadata {
        self.shard.persisted().transaction(ID).expect("the transactional id is there")
    }

    pub(crate) fn state(&self) -> TransactionState {
        self.transaction().state
    }

    /// States of all records since `from`.
    pub(crate) fn states_since(&self, from: usize) -> Vec<TransactionState> {
        self.log[from..].iter().filter_map(|record| record.value.as_ref()).map(|value| value.state).collect()
    }

    /// A producer whose transaction has partition 0 and was decided and completed.
    pub(crate) fn completed(&mut self, commit: bool, version: i8) -> ProducerIdAndEpoch {
        let held = self.init(None).expect("a producer");
        assert_eq!(self.add(held, &[0], version), Ok(()));
        let next = self.end(held, commit, version).expect("decided");
        self.complete();
        if next == ProducerIdAndEpoch::NONE { held } else { next }
    }
}
