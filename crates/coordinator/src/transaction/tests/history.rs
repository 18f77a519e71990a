//! Random histories of several producers on an unreliable network against what must always hold.
//! `OTTLA_TRANSACTION_HISTORIES` sets how many.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use protocol::ErrorCode;

use super::harness::{Harness, TIMEOUT_MS, TV1, TV2, of, partitions};
use crate::transaction::{
    MarkerTask, PartitionSet, ProducerIdAndEpoch, TransactionConfig, TransactionMetadata, TransactionRequest,
    TransactionResponse, TransactionState,
};

/// Two transactional ids; each has three instances that fence one another, one of them of an older kind.
const IDS: [&str; 2] = ["tx", "other"];
const CLIENTS: usize = 6;
const PARTITIONS: i32 = 3;

#[derive(Clone, Debug)]
enum Action {
    /// A client sends what it would send next.
    Send(usize, bool),
    /// A client sends once more what it sent last, as after a lost connection.
    Resend(usize),
    /// A client's process dies and comes back with nothing.
    Reset(usize),
    /// A client says which producer it holds, to go on after an error (KIP-360).
    GoOn(usize),
    /// A message arrives: which, whether it stays on the network to arrive again, what becomes of it.
    Arrive {
        message: usize,
        stays: bool,
        fate: Fate,
    },
    /// A partition accepts the marker of a task, perhaps an old one.
    Mark {
        task: usize,
        partition: i32,
        appended: bool,
    },
    Wait(i64),
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    AnswerLost,
    /// The records could not be appended.
    NotAppended,
}

fn action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS;
    let fate = prop_oneof![8 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::NotAppended)];
    let message = prop_oneof![4 => Just(usize::MAX), 1 => any::<usize>()];
    prop_oneof![
        16 => (client.clone(), any::<bool>()).prop_map(|(client, commit)| Action::Send(client, commit)),
        2 => client.clone().prop_map(Action::Resend),
        1 => client.clone().prop_map(Action::Reset),
        1 => client.prop_map(Action::GoOn),
        20 => (message, prop::bool::weighted(0.2), fate)
            .prop_map(|(message, stays, fate)| Action::Arrive { message, stays, fate }),
        12 => (any::<usize>(), 0..PARTITIONS, prop::bool::weighted(0.9))
            .prop_map(|(task, partition, appended)| Action::Mark { task, partition, appended }),
        2 => prop_oneof![1..1_000_i64, 10_000..70_000_i64].prop_map(Action::Wait),
        1 => Just(Action::Crash),
    ]
}

/// A transaction as its client knows it.
type Serial = (usize, u64);

#[derive(Clone, Debug)]
struct Message {
    /// The client's transaction that it is about.
    serial: Serial,
    request: TransactionRequest,
}

#[derive(Clone, Debug)]
struct Client {
    id: &'static str,
    version: i8,
    held: Option<ProducerIdAndEpoch>,
    serial: u64,
    /// Partitions the coordinator said yes to.
    added: usize,
    /// What it ends the transaction with, once it has begun to: it must not change its mind.
    ending: Option<bool>,
    last: Option<Message>,
}

struct History {
    harness: Harness,
    clients: Vec<Client>,
    network: Vec<Message>,
    /// With the number of decisions of the id so far.
    tasks: Vec<(MarkerTask, usize)>,
    /// Which client's transaction is open, by transactional id.
    open: BTreeMap<&'static str, Serial>,
    /// How each was decided, where a client of TV2 began it.
    decisions: BTreeMap<Serial, bool>,
    /// What the markers of an id, producer and epoch said. Of TV1 several transactions have the same.
    marked: BTreeMap<(Arc<str>, i64, i16), bool>,
    /// Whom each producer id and epoch was given to.
    holders: BTreeMap<(i64, i16), usize>,
    /// Number of decisions of each id, and the partitions that have the last one's marker.
    written: BTreeMap<Arc<str>, (usize, PartitionSet)>,
    read: usize,
}

impl History {
    fn new(transaction_version: i8) -> Self {
        let client = |index: usize| Client {
            id: IDS[index % IDS.len()],
            version: if index < 4 { TV2 } else { TV1 },
            held: None,
            serial: 0,
            added: 0,
            ending: None,
            last: None,
        };
        let mut harness = Harness::with(TransactionConfig { transaction_version, ..TransactionConfig::default() });
        harness.init(None).expect("a producer");
        // So that histories go beyond the last epoch.
        harness.record(|transaction| transaction.producer_epoch = i16::MAX - 6);
        let read = harness.log.len();
        Self {
            harness,
            clients: (0..CLIENTS).map(client).collect(),
            network: Vec::new(),
            tasks: Vec::new(),
            open: BTreeMap::new(),
            decisions: BTreeMap::new(),
            marked: BTreeMap::new(),
            holders: BTreeMap::new(),
            written: BTreeMap::new(),
            read,
        }
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Send(client, commit) => self.send(*client, *commit),
            Action::Resend(client) => self.network.extend(self.clients[*client].last.clone()),
            Action::Reset(index) => {
                let client = &mut self.clients[*index];
                *client = Client { held: None, serial: client.serial + 1, added: 0, ending: None, ..client.clone() };
            }
            Action::GoOn(index) => {
                let held = self.clients[*index].held;
                if held.is_some() {
                    self.init(*index, held);
                }
            }
            Action::Arrive { message, stays, fate } => self.arrive(*message, *stays, *fate),
            Action::Mark { task, partition, appended } => self.mark(*task, *partition, *appended),
            Action::Wait(ms) => self.wait(*ms),
            Action::Crash => {
                self.harness.restart();
                self.take_markers();
            }
        }
        let bytes = self.harness.shard.checkpoint();
        let restored = crate::transaction::PersistedTransactions::restore(&bytes);
        assert_eq!(restored.as_ref(), Ok(self.harness.shard.persisted()), "checkpoint and back");
    }

    fn wait(&mut self, ms: i64) {
        let offered = self.harness.lease();
        self.harness.shard.offer_producer_id(offered);
        self.harness.wait(ms);
        self.read_records(None);
        self.take_markers();
    }

    fn init(&mut self, index: usize, expected: Option<ProducerIdAndEpoch>) {
        let client = &mut self.clients[index];
        // Whatever was open is given up by its client, which sends nothing else until it is answered.
        client.held = None;
        client.serial += 1;
        client.added = 0;
        client.ending = None;
        let request =
            TransactionRequest::InitProducerId { transactional_id: client.id.into(), timeout_ms: TIMEOUT_MS, expected };
        self.post(index, request);
    }

    fn send(&mut self, index: usize, commit: bool) {
        let client = &mut self.clients[index];
        let Some(held) = client.held else {
            return match client.last.clone().filter(|last| last.serial == (index, client.serial)) {
                Some(last) => self.network.push(last),
                None => self.init(index, None),
            };
        };
        let request = if client.ending.is_none() && client.added < PARTITIONS as usize && (client.added == 0 || commit)
        {
            TransactionRequest::AddPartitions {
                producer: of(client.id, held),
                partitions: partitions("topic", &[client.added as i32]),
                client_transaction_version: client.version,
            }
        } else {
            let commit = *client.ending.get_or_insert(commit);
            TransactionRequest::EndTxn {
                producer: of(client.id, held),
                commit,
                client_transaction_version: client.version,
            }
        };
        self.post(index, request);
    }

    fn post(&mut self, index: usize, request: TransactionRequest) {
        let message = Message { serial: (index, self.clients[index].serial), request };
        self.clients[index].last = Some(message.clone());
        self.network.push(message);
    }

    fn arrive(&mut self, message: usize, stays: bool, fate: Fate) {
        if self.network.is_empty() {
            return;
        }
        // Mostly the newest, else any.
        let newest = self.network.len() - 1;
        let at = if message == usize::MAX { newest } else { message % self.network.len() };
        let message = if stays { self.network[at].clone() } else { self.network.remove(at) };
        let output = self.harness.try_request(&message.request);
        if matches!(fate, Fate::NotAppended) {
            return;
        }
        self.harness.append(&output);
        self.read_records(Some(&message));
        self.take_markers();
        self.judge(&message, &output.responses[0].1);
        if matches!(fate, Fate::Answered) {
            self.answered(&message, &output.responses[0].1);
        }
    }

    /// Whether or not the client hears it: nobody else was given what it is to use, and what it is told about its
    /// transaction is how it was decided.
    fn judge(&mut self, message: &Message, response: &TransactionResponse) {
        if let TransactionResponse::InitProducerId(Ok(given)) | TransactionResponse::EndTxn(Ok(given)) = response
            && *given != ProducerIdAndEpoch::NONE
        {
            let holder = *self.holders.entry((given.producer_id, given.epoch)).or_insert(message.serial.0);
            assert_eq!(holder, message.serial.0, "{given:?} is one client's");
        }
        let (TransactionRequest::EndTxn { commit, .. }, TransactionResponse::EndTxn(Ok(_))) =
            (&message.request, response)
        else {
            return;
        };
        // Below TV2 it can be told wrongly: that is why there is TV2.
        if self.clients[message.serial.0].version == TV2 {
            let decision = self.decisions.get(&message.serial);
            if *commit {
                assert_eq!(decision, Some(&true), "{message:?} was told of a commit");
            } else {
                assert_ne!(decision, Some(&true), "{message:?} was told of an abort");
            }
        }
    }

    fn answered(&mut self, message: &Message, response: &TransactionResponse) {
        let (index, serial) = message.serial;
        let client = &mut self.clients[index];
        if client.serial != serial {
            return;
        }
        match response {
            // A second answer to the same request is not read.
            TransactionResponse::InitProducerId(Ok(producer)) => client.held = client.held.or(Some(*producer)),
            TransactionResponse::AddPartitions(Ok(())) => client.added += 1,
            TransactionResponse::EndTxn(Ok(next)) => {
                if *next != ProducerIdAndEpoch::NONE {
                    client.held = Some(*next);
                }
                client.serial += 1;
                client.added = 0;
                client.ending = None;
            }
            TransactionResponse::InitProducerId(Err(error))
            | TransactionResponse::AddPartitions(Err(error))
            | TransactionResponse::EndTxn(Err(error)) => {
                if *error != ErrorCode::ConcurrentTransactions {
                    // To begin anew.
                    client.held = None;
                    client.serial += 1;
                    client.added = 0;
                    client.ending = None;
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn mark(&mut self, task: usize, partition: i32, appended: bool) {
        if self.tasks.is_empty() {
            return;
        }
        let (task, decision) = self.tasks[task % self.tasks.len()].clone();
        let accepted: Vec<_> = task.partitions.iter().filter(|(_, index)| *index == partition).cloned().collect();
        let written = self.written.get_mut(&task.transactional_id).expect("decided");
        if written.0 == decision {
            accepted.iter().for_each(|(topic, partition)| written.1.insert(topic, *partition));
        }
        let output = self.harness.shard.markers_written(&task, &accepted, self.harness.now);
        if appended {
            self.harness.append(&output);
            self.read_records(None);
        }
    }

    /// Follows the log: every decision is of a transaction that is open, and by whom it may be made.
    fn read_records(&mut self, cause: Option<&Message>) {
        let mut before: BTreeMap<Arc<str>, TransactionMetadata> = BTreeMap::new();
        for record in &self.harness.log[..self.read] {
            match record.value.clone() {
                Some(value) => before.insert(Arc::clone(&record.transactional_id), value),
                None => before.remove(&record.transactional_id),
            };
        }
        let records: Vec<_> = self.harness.log[self.read..].to_vec();
        for record in records {
            let id = IDS.into_iter().find(|id| **id == *record.transactional_id).expect("one of the ids");
            let Some(after) = record.value else {
                before.remove(&record.transactional_id);
                continue;
            };
            let last = before.insert(Arc::clone(&record.transactional_id), after.clone());
            if let Some(last) = &last {
                let order = |value: &TransactionMetadata| (value.producer_id, value.producer_epoch);
                assert!(order(last) <= order(&after), "epochs never regress: {last:?} {after:?}");
            }
            if let Some(decided) = last.as_ref().filter(|last| last.state.is_prepared()) {
                let written = &self.written[id].1;
                assert!(written.contains_all(&decided.partitions), "complete when each partition has its marker");
            }
            let was_open = last.is_some_and(|last| last.state == TransactionState::Ongoing);
            match after.state {
                TransactionState::Ongoing => {
                    let serial = cause.expect("by a request").serial;
                    let open = *self.open.entry(id).or_insert(serial);
                    if self.clients[serial.0].version == TV2 {
                        assert_eq!(open, serial, "a partition is added to its own transaction");
                    }
                }
                TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                    let written = self.written.entry(id.into()).or_default();
                    *written = (written.0 + 1, PartitionSet::default());
                    self.decided(id, after.state == TransactionState::PrepareCommit, was_open, cause);
                }
                _ => assert!(!self.open.contains_key(id), "{id} is complete, and decided before"),
            }
        }
        self.read = self.harness.log.len();
    }

    fn decided(&mut self, id: &'static str, commit: bool, was_open: bool, cause: Option<&Message>) {
        let open = self.open.remove(id);
        assert_eq!(open.is_some(), was_open, "only what is open is decided, and once");
        assert!(was_open || !commit, "nothing is not committed");
        let Some(open) = open else { return };
        let is_new_kind = self.clients[open.0].version == TV2;
        match cause {
            Some(Message { serial, request: TransactionRequest::EndTxn { commit: asked, .. } }) => {
                assert_eq!(*asked, commit, "as was asked");
                if is_new_kind {
                    assert_eq!(*serial, open, "a late EndTxn decided a later transaction");
                }
            }
            _ => assert!(!commit, "nobody but the client commits"),
        }
        if is_new_kind {
            assert_eq!(self.decisions.insert(open, commit), None, "decided once");
        }
    }

    /// New tasks are of decisions that are in the log, and say the same.
    fn take_markers(&mut self) {
        for task in std::mem::take(&mut self.harness.markers) {
            let transaction = self.harness.shard.persisted().transaction(&task.transactional_id).expect("is there");
            let state = if task.commit { TransactionState::PrepareCommit } else { TransactionState::PrepareAbort };
            assert_eq!(transaction.state, state, "markers are of the decision");
            assert_eq!((transaction.producer_id, transaction.producer_epoch), (task.producer_id, task.producer_epoch));
            assert_eq!(transaction.partitions.to_list(), task.partitions, "each partition gets one");
            if task.transaction_version >= TV2 {
                let key = (Arc::clone(&task.transactional_id), task.producer_id, task.producer_epoch);
                assert_eq!(*self.marked.entry(key).or_insert(task.commit), task.commit, "one outcome for an epoch");
            }
            let (decisions, _) = self.written[&task.transactional_id];
            self.tasks.push((task, decisions));
        }
    }

    /// Left alone, every decision is completed; then a client that comes can commit.
    fn settle(&mut self) {
        self.harness.restart();
        self.take_markers();
        self.wait(2 * i64::from(TIMEOUT_MS));
        for partition in 0..PARTITIONS {
            (0..self.tasks.len()).for_each(|task| self.mark(task, partition, true));
        }
        assert!(self.harness.shard.pending_markers().is_empty());
        let transactions = self.harness.shard.persisted().transactions();
        assert!(transactions.into_iter().all(|(_, transaction)| transaction.state.is_idle()), "nothing is left open");
        let held = self.harness.init(None).expect("idle");
        assert_eq!(self.harness.add(held, &[0], TV2), Ok(()));
        assert!(self.harness.end(held, true, TV2).is_ok());
        self.harness.complete();
        assert_eq!(self.harness.state(), TransactionState::CompleteCommit);
        self.harness.restart();
    }
}

#[test]
fn random_histories_keep_every_invariant() {
    let cases = std::env::var("OTTLA_TRANSACTION_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let actions = proptest::collection::vec(action(), 1..250);
    runner
        .run(&(actions, prop_oneof![3 => Just(2_i8), 1 => Just(1_i8)]), |(actions, transaction_version)| {
            let mut history = History::new(transaction_version);
            actions.iter().for_each(|action| history.run(action));
            history.settle();
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
