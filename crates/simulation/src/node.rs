//! The process of a broker: starts it, and what it does when it ends.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use broker::config::{BrokerConfig, Properties};
use broker::{Ending, RunningBroker, start_on};
use common::NodeId;
use metadata::{Command, Outcome};

use crate::machine::SimulatedMachine;
use crate::world::World;

/// Where clients reach a broker.
pub const CLIENT_PORT: u16 = 9092;
/// Where its peers reach it.
pub const PEER_PORT: u16 = 9093;

/// The name of a broker's host.
#[must_use]
pub fn host(node: NodeId) -> String {
    format!("b{node}")
}

/// The configuration of a broker: shipped defaults, but for sizes that let things happen within seconds.
#[must_use]
pub fn config(world: &World, node: NodeId) -> BrokerConfig {
    let voters: Vec<String> = world.node_ids().map(|id| format!("{id}@{}:{PEER_PORT}", host(id))).collect();
    let name = host(node);
    let text = format!(
        "node.id={node}\n\
         process.roles=broker,controller\n\
         listeners=PLAINTEXT://0.0.0.0:{CLIENT_PORT},CONTROLLER://0.0.0.0:{PEER_PORT}\n\
         advertised.listeners=PLAINTEXT://{name}:{CLIENT_PORT},CONTROLLER://{name}:{PEER_PORT}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         ottla.wal.url=file:///simulated/{name}/wal\n\
         controller.quorum.voters={}\n\
         log.dirs=/simulated/{name}\n\
         ottla.wal.class=shared\n\
         ottla.object.store.url=memory:///\n\
         offsets.topic.num.partitions=3\n\
         group.min.session.timeout.ms=1000\n\
         group.initial.rebalance.delay.ms=0\n",
        voters.join(",")
    );
    let properties = Properties::parse(&text).expect("properties");
    let (config, _) = BrokerConfig::load(properties, true).expect("a sound configuration");
    BrokerConfig { upload_bytes: 512 << 10, log_cache_bytes: 8 << 20, ..config }
}

/// Runs the process until it is told to stop, or cannot go on.
pub async fn run(world: Arc<World>, node: NodeId) -> turmoil::Result {
    let name = host(node);
    world.node(node).ready.store(false, Ordering::SeqCst);
    let machine = SimulatedMachine::new(&world, node);
    loop {
        world.judge.source_lost(node.0.unsigned_abs());
        // What is left of the life before knows nothing new.
        *world.node(node).broker.lock() = Weak::new();
        world.trace.line(&name, "starts");
        let running = match start_on(config(&world, node), &machine).await {
            Ok(running) => running,
            Err(error) => {
                world.trace.line(&name, &format!("does not start: {error}"));
                blame(&world, node, &format!("does not start: {error}"));
                return Ok(());
            }
        };
        *world.node(node).broker.lock() = Arc::downgrade(running.broker());
        world.trace.line(&name, &format!("is ready, node epoch {}", running.broker().node_epoch));
        let ready = &world.node(node).ready;
        ready.store(true, Ordering::SeqCst);
        let ending = life(&world, node, &running).await;
        ready.store(false, Ordering::SeqCst);
        match ending {
            None => {
                let report = running.stop().await;
                world.trace.line(&name, &format!("stopped, {} bytes left in its log", report.left_in_wal));
                return Ok(());
            }
            Some(Ending::Fenced) => {
                world.trace.line(&name, "was fenced, begins a new life");
                running.abandon().await;
            }
            Some(Ending::Failed(reason)) => {
                world.trace.line(&name, &format!("failed: {reason}"));
                blame(&world, node, &reason);
                return Ok(());
            }
        }
    }
}

/// Nothing but its disk may end a process, or keep it from starting.
fn blame(world: &World, node: NodeId, reason: &str) {
    if !world.node(node).may_fail.load(Ordering::SeqCst) {
        world.judge.complain(format!("broker {node}, whose disk did not fail: {reason}"));
    }
}

/// One life; `None` when it is told to stop.
async fn life(world: &World, node: NodeId, running: &RunningBroker) -> Option<Ending> {
    let told = async {
        while !world.node(node).stop.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let drains = std::mem::take(&mut *world.node(node).drains.lock());
            for (draining, answer) in drains {
                let set = running.broker().metadata.submit(Command::SetDraining { node, draining }).await;
                // The operator may have given up.
                let _ = answer.send(match set {
                    Ok(Outcome::Done) => Ok(()),
                    other => Err(format!("{other:?}")),
                });
            }
        }
    };
    tokio::select! {
        ending = running.ended() => Some(ending),
        () = told => None,
    }
}
