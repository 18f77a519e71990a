//! One run: a cluster, clients, faults, and the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use common::Random as _;
use turmoil::{Builder, Sim};

use crate::client::member::Member;
use crate::client::producer::Producer;
use crate::client::{follower, observer, operator, producer, reader, setup};
use crate::invariants;
use crate::machine::EPOCH_MS;
use crate::nemesis::{CLIENT_HOSTS, Nemesis};
use crate::node;
use crate::trace::Trace;
use crate::world::{Phase, Shape, World};

/// How long the cluster may take to start, and to serve everything again once all is healed.
const LIVENESS: Duration = Duration::from_secs(60);

/// Steps of the simulation so far: whoever sees it stand still knows that the run hangs.
pub static STEPS: AtomicU64 = AtomicU64::new(0);

/// What is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything follows from it.
    pub seed: u64,
    /// Where the trace goes.
    pub trace: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What is wrong; nothing, if it went well.
    pub defects: Vec<String>,
    /// Figures, for people.
    pub summary: String,
    /// The newest lines of the trace.
    pub newest: Vec<String>,
}

/// Runs one seed. The process must do nothing else: see [`crate::entropy`].
///
/// # Errors
/// The trace cannot be written.
pub fn run(settings: &Settings) -> std::io::Result<Outcome> {
    let trace = Trace::new(settings.trace.as_deref())?;
    let shape = Shape { nodes: 3, partitions: 4, producers: 2, members: 2 };
    let world = World::new(settings.seed, shape, trace);
    // From the first step on, a phase lasts until all of these are done.
    world.begin("setup");
    (0..world.shape.lanes()).for_each(|lane| world.begin(&producer::name(lane)));
    (0..world.shape.partitions).for_each(|partition| world.begin(&reader::name(partition)));
    let mut sim = build(&world);
    let mut nemesis = Nemesis::new(settings.seed, world.shape.nodes, world.shape.partitions);
    let mut defects = Vec::new();
    if let Err(defect) = play(&mut sim, &world, &mut nemesis) {
        defects.push(defect);
    }
    let (verdict, complaints) = world.judge.finish();
    defects.extend(complaints);
    // Where it ended early there is nothing to compare what was acknowledged with.
    if defects.is_empty() && !verdict.is_clean() {
        defects.push(verdict.to_string());
    }
    let (lines, hash) = world.trace.digest();
    let seconds = sim.elapsed().as_secs_f64();
    let summary = format!(
        "{seconds:.1} s simulated, {} faults, {} acked, {} unknown, {} polled, trace {lines} lines {hash:016x}",
        nemesis.faults, verdict.acked, verdict.unknown, verdict.records_polled,
    );
    let newest = world.trace.newest();
    // Its hosts hold what belongs to the simulation, which cannot be entered any more.
    std::mem::forget(sim);
    Ok(Outcome { defects, summary, newest })
}

/// The hosts of the run.
fn build(world: &Arc<World>) -> Sim<'static> {
    let epoch = UNIX_EPOCH + Duration::from_millis(EPOCH_MS.unsigned_abs());
    let slow = 1 + world.random.below(20);
    let mut sim = Builder::new()
        .rng_seed(world.random.next_u64())
        .epoch(epoch)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(0))
        .max_message_latency(Duration::from_millis(slow))
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    for id in world.node_ids() {
        let world = Arc::clone(world);
        sim.host(node::host(id), move || node::run(Arc::clone(&world), id));
    }
    for (index, name) in (0..).zip(CLIENT_HOSTS) {
        let world = Arc::clone(world);
        sim.client(name, clients(world, index));
    }
    sim
}

/// What runs on one of the hosts of clients.
async fn clients(world: Arc<World>, host: u32) -> turmoil::Result {
    let hosts = u32::try_from(CLIENT_HOSTS.len())?;
    let shape = world.shape.clone();
    let here = |number: u32| number % hosts == host;
    let mut tasks = tokio::task::JoinSet::new();
    if host == 0 {
        tasks.spawn_local(setup::run(Arc::clone(&world)));
        tasks.spawn_local(operator::run(Arc::clone(&world)));
        for node in world.node_ids() {
            tasks.spawn_local(observer::run(Arc::clone(&world), node));
        }
    }
    for lane in (0..shape.lanes()).filter(|lane| here(*lane / shape.partitions)) {
        tasks.spawn_local(Producer::new(&world, lane).run());
    }
    for member in (0..shape.members).filter(|member| here(*member)) {
        tasks.spawn_local(Member::new(&world, member).run());
    }
    for partition in (0..shape.partitions).filter(|partition| here(*partition)) {
        tasks.spawn_local(follower::run(Arc::clone(&world), host, partition));
        tasks.spawn_local(reader::run(Arc::clone(&world), partition));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Steps until `done`, or says that it took too long, and for what.
fn steps(
    sim: &mut Sim<'_>,
    world: &World,
    within: Duration,
    mut done: impl FnMut(&mut Sim<'_>) -> Option<String>,
) -> Result<(), String> {
    let until = sim.elapsed() + within;
    loop {
        // Often enough for what takes seconds.
        if sim.elapsed().subsec_millis().is_multiple_of(20) {
            world.watch.lock().look(world)?;
            let Some(reason) = done(sim) else { return Ok(()) };
            if sim.elapsed() >= until {
                return Err(format!("after {within:?} in phase {:?}: {reason}", world.phase()));
            }
        }
        sim.step().map_err(|error| format!("a process of the simulation failed: {error}"))?;
        world.trace.set_now(sim.elapsed());
        STEPS.fetch_add(1, Ordering::SeqCst);
    }
}

/// All phases.
fn play(sim: &mut Sim<'_>, world: &World, nemesis: &mut Nemesis) -> Result<(), String> {
    let waiting = |what: &str, who: Vec<String>| (!who.is_empty()).then(|| format!("{what}: {}", who.join(", ")));
    let busy_with = |prefix: &str| world.busy().into_iter().filter(|who| who.starts_with(prefix)).collect();
    steps(sim, world, LIVENESS, |_| waiting("not there", busy_with("setup")))?;
    world.enter(Phase::Faults);
    let (begun, length) = (sim.elapsed(), nemesis.length);
    steps(sim, world, length * 2, |sim| {
        let since = sim.elapsed() - begun;
        nemesis.strike(sim, world, since);
        (since < length).then(|| "time passes".to_owned())
    })?;
    nemesis.heal(sim, world);
    world.enter(Phase::Healed);
    let lanes = world.shape.lanes() as usize;
    steps(sim, world, LIVENESS, |sim| {
        nemesis.revive(sim, world);
        let served = world.served();
        let missing = waiting("not there", world.missing());
        missing.or_else(|| (served < lanes).then(|| format!("{served} of {lanes} producers are served")))
    })?;
    world.enter(Phase::Drain);
    steps(sim, world, LIVENESS, |sim| {
        nemesis.revive(sim, world);
        let writing = waiting("still writing", busy_with("p"));
        writing.or_else(|| waiting("unread", world.judge.unread(world.shape.partitions)))
    })?;
    world.enter(Phase::ReadBack);
    steps(sim, world, LIVENESS, |_| waiting("not read back", busy_with("read")))?;
    world.enter(Phase::Over);
    let defects = invariants::at_rest(world);
    if defects.is_empty() { Ok(()) } else { Err(defects.join("\n")) }
}
