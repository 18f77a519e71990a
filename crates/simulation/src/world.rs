//! What outlives the processes of a simulation: disks, the object store, clocks; and what all parts of it share.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use broker::Broker;
use broker::meta_properties::MetaProperties;
use common::simulated_disk::SimulatedDisk;
use common::store::{FaultPlan, Faults};
use common::{NodeId, Random, SeededRandom};
use metadata::log::SimulatedLogDisk;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wal::simulation::{SimulatedDisks, SimulatedSizes};

use crate::judge::Judge;
use crate::machine::Clocks;
use crate::trace::Trace;
use crate::watch::Watch;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The cluster starts, the topic is made.
    Start,
    /// Clients work, faults strike.
    Faults,
    /// All is healed; clients work on.
    Healed,
    /// Nothing new is written; everything is to be read.
    Drain,
    /// Readers stop; everything is read back.
    ReadBack,
    /// The run is over.
    Over,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Start, Self::Faults, Self::Healed, Self::Drain, Self::ReadBack, Self::Over];
}

/// Sizes of a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Brokers that also vote.
    pub nodes: i32,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Producers of each partition.
    pub producers: u32,
    /// Members of the group.
    pub members: u32,
}

impl Shape {
    /// Producers, each of one partition.
    #[must_use]
    pub fn lanes(&self) -> u32 {
        self.producers * self.partitions
    }
}

/// What an operator wants of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It gives everything away and leads nothing.
    Drain(NodeId),
    /// It may lead again.
    Resume(NodeId),
    /// The partition gets another leader, for good.
    Move(u32, NodeId),
}

/// A machine's part that outlives the processes on it.
pub struct NodeWorld {
    /// See [`Clocks`].
    pub clocks: Arc<Clocks>,
    /// `meta.properties`.
    pub identity: Mutex<Option<MetaProperties>>,
    /// Its disk: what goes wrong with it, and whose it is.
    pub disk: Arc<SimulatedDisk>,
    /// Raft's log on it.
    pub raft: Arc<SimulatedLogDisk>,
    /// What goes wrong on its way to the object store.
    pub faults: Arc<Faults>,
    /// Asked over its admin port, which is no part of the simulated network: whether it is to be drained, and where the answer
    /// goes.
    pub drains: Mutex<Vec<(bool, oneshot::Sender<Result<(), String>>)>>,
    /// What runs on it, if it is up.
    pub broker: Mutex<Weak<Broker>>,
    /// The process is to stop by itself.
    pub stop: AtomicBool,
    /// A fault of its disk may end the process.
    pub may_fail: AtomicBool,
    /// The broker serves.
    pub ready: AtomicBool,
}

/// How the object store is when nothing is wrong with it.
#[must_use]
pub fn sound_store() -> FaultPlan {
    FaultPlan { latency: Duration::from_millis(5), jitter: Duration::from_millis(20), ..FaultPlan::default() }
}

impl NodeWorld {
    fn new(random: &SeededRandom) -> Self {
        let own = || Arc::new(SeededRandom::new(random.next_u64()));
        Self {
            clocks: Arc::default(),
            identity: Mutex::default(),
            disk: SimulatedDisk::new(own()),
            raft: Arc::default(),
            faults: Arc::new(Faults::new(sound_store(), own())),
            drains: Mutex::default(),
            broker: Mutex::default(),
            stop: AtomicBool::new(false),
            may_fail: AtomicBool::new(false),
            ready: AtomicBool::new(false),
        }
    }
}

/// See the module.
pub struct World {
    /// The seed of the run.
    pub seed: u64,
    /// Sizes.
    pub shape: Shape,
    /// Randomness of whatever has none of its own.
    pub random: SeededRandom,
    /// What happens.
    pub trace: Trace,
    /// What is wrong with it.
    pub judge: Judge,
    /// Write-ahead logs.
    pub disks: Arc<SimulatedDisks>,
    /// What the object store holds.
    pub objects: Arc<dyn ObjectStore>,
    /// What was seen of the cluster's state.
    pub watch: Mutex<Watch>,
    /// What operators have still to do.
    pub orders: Mutex<VecDeque<Order>>,
    nodes: Vec<NodeWorld>,
    phase: AtomicU8,
    /// See [`Self::may_be_late`].
    may_be_late: AtomicBool,
    /// When everything was healed.
    healed_at: Mutex<Option<Duration>>,
    /// Producers that had a record acknowledged since, that was sent since; by number of their lane.
    served: Mutex<BTreeSet<u32>>,
    /// Tasks of clients that are still at work in this phase.
    busy: Mutex<BTreeSet<String>>,
}

impl World {
    /// A world in which nothing happened yet.
    #[must_use]
    pub fn new(seed: u64, shape: Shape, trace: Trace) -> Arc<Self> {
        let random = SeededRandom::new(seed ^ 0x0077_6f72_6c64);
        let of_disks = Arc::new(SeededRandom::new(random.next_u64()));
        Arc::new(Self {
            seed,
            trace,
            judge: Judge::default(),
            disks: SimulatedDisks::new(SimulatedSizes::default(), of_disks),
            objects: Arc::new(InMemory::new()),
            watch: Mutex::default(),
            orders: Mutex::default(),
            nodes: (0..shape.nodes).map(|_| NodeWorld::new(&random)).collect(),
            random,
            phase: AtomicU8::new(Phase::Start as u8),
            may_be_late: AtomicBool::new(false),
            healed_at: Mutex::default(),
            served: Mutex::default(),
            busy: Mutex::default(),
            shape,
        })
    }

    /// The machine of `node`, which counts from 1.
    #[must_use]
    pub fn node(&self, node: NodeId) -> &NodeWorld {
        &self.nodes[usize::try_from(node.0 - 1).expect("nodes count from 1")]
    }

    /// All nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.shape.nodes).map(NodeId)
    }

    /// What runs on a node, if it is up.
    #[must_use]
    pub fn broker(&self, node: NodeId) -> Option<Arc<Broker>> {
        self.node(node).broker.lock().upgrade()
    }

    /// What runs on all nodes that are up.
    pub fn brokers(&self) -> impl Iterator<Item = (NodeId, Arc<Broker>)> + '_ {
        self.node_ids().filter_map(|node| Some((node, self.broker(node)?)))
    }

    /// From now on messages may come long after they were sent, and be obeyed long after that.
    pub fn let_be_late(&self) {
        self.may_be_late.store(true, Ordering::SeqCst);
    }

    /// Whether they may.
    #[must_use]
    pub fn may_be_late(&self) -> bool {
        self.may_be_late.load(Ordering::SeqCst)
    }

    /// How far the run is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    /// Begins a phase.
    pub fn enter(&self, phase: Phase) {
        self.trace.line("run", &format!("phase {phase:?}"));
        if phase == Phase::Healed {
            *self.healed_at.lock() = Some(self.trace.now());
        }
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// A record of producer lane `lane` that was sent at `sent` was acknowledged.
    pub fn acknowledged(&self, lane: u32, sent: Duration) {
        if self.healed_at.lock().is_some_and(|healed| sent >= healed) {
            self.served.lock().insert(lane);
        }
    }

    /// Lanes of producers that were served since everything was healed.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.lock().len()
    }

    /// Brokers that do not serve.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let missing = self.node_ids().filter(|node| !self.node(*node).ready.load(Ordering::SeqCst));
        missing.map(|node| format!("broker {node}")).collect()
    }

    /// `who` has something to do before the next phase may begin.
    pub fn begin(&self, who: &str) {
        self.busy.lock().insert(who.to_owned());
    }

    /// `who` is done with it.
    pub fn done(&self, who: &str) {
        self.busy.lock().remove(who);
    }

    /// Who is not done yet.
    #[must_use]
    pub fn busy(&self) -> Vec<String> {
        self.busy.lock().iter().cloned().collect()
    }
}
