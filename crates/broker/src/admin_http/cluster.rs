//! What an operator asks of the cluster: brokers and their logs, drains, the quorum. Answers are JSON; any broker answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::NodeId;
use metadata::placement::plan_fail_over;
use metadata::{Command, MetadataImage, NodeDraining, Outcome, WalClass, WalState};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Broker;
use crate::cluster::member::QuorumChangeError;
use crate::cluster::peer::messages::QuorumChange;

/// How long a change of the quorum may take.
const QUORUM_DEADLINE: Duration = Duration::from_secs(30);

pub(super) type Answer = Result<Response, (StatusCode, String)>;

pub(super) fn told(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

pub(super) fn refused(reason: impl ToString) -> (StatusCode, String) {
    (StatusCode::CONFLICT, format!("{}\n", reason.to_string()))
}

/// Has metadata changed, or tells why not.
async fn submit(broker: &Broker, command: Command) -> Result<(), (StatusCode, String)> {
    match broker.metadata.submit(command).await {
        Ok(Outcome::Done | Outcome::Moved { .. }) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(refused(refusal)),
        Ok(other) => Err(refused(format!("metadata answered {other:?}"))),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))),
    }
}

/// All brokers: state, what they lead, their logs.
pub(super) async fn brokers(State(broker): State<Arc<Broker>>) -> Response {
    let image = broker.metadata.image();
    let brokers: Vec<Value> = image.nodes.keys().map(|id| describe(&image, *id)).collect();
    told(&json!({ "brokers": brokers }))
}

fn describe(image: &MetadataImage, id: NodeId) -> Value {
    let node = &image.nodes[&id];
    let leads = image.topics.values().flat_map(|topic| &topic.partitions).filter(|one| one.leader == id).count();
    let logs = image.wals.iter().filter(|(_, wal)| wal.node == id && !wal.state.is_over()).map(|(uuid, wal)| {
        let (state, pending) = match &wal.state {
            WalState::Open => ("open", 0),
            WalState::Sealed { pending, .. } => ("sealed", pending.len()),
            WalState::Retired => ("retired", 0),
            WalState::Abandoned => ("abandoned", 0),
        };
        let class = match wal.class {
            WalClass::Private => "private",
            WalClass::Shared => "shared",
        };
        let location = &*wal.location;
        json!({ "uuid": uuid.to_string(), "class": class, "location": location, "state": state, "pending_partitions": pending })
    });
    let state = match (node.fenced, node.draining) {
        (true, _) => "fenced",
        (false, NodeDraining::No) => "active",
        (false, NodeDraining::Stopping) => "stopping",
        (false, NodeDraining::ByOperator) => "draining",
    };
    let endpoints: Vec<String> =
        node.endpoints.iter().map(|at| format!("{}://{}:{}", at.listener, at.host, at.port)).collect();
    json!({
        "id": id.0,
        "epoch": node.epoch.0,
        "state": state,
        "rack": node.rack.as_deref(),
        "peer": &*node.peer,
        "endpoints": endpoints,
        "leads": leads,
        "wals": logs.collect::<Vec<_>>(),
    })
}

/// Drains a broker: it gives everything away and leads nothing until it is resumed.
pub(super) async fn drain(State(broker): State<Arc<Broker>>, Path(id): Path<i32>) -> Answer {
    set_draining(&broker, NodeId(id), true).await
}

/// Ends a drain.
pub(super) async fn resume(State(broker): State<Arc<Broker>>, Path(id): Path<i32>) -> Answer {
    set_draining(&broker, NodeId(id), false).await
}

async fn set_draining(broker: &Broker, node: NodeId, draining: bool) -> Answer {
    submit(broker, Command::SetDraining { node, draining }).await?;
    Ok(told(&describe(&broker.metadata.image(), node)))
}

/// Gives up what a fenced node's log holds and nobody can reach; tells, partition by partition, what is lost.
pub(super) async fn abandon(State(broker): State<Arc<Broker>>, Path(wal): Path<String>) -> Answer {
    let wal = Uuid::parse_str(&wal).map_err(|error| (StatusCode::NOT_FOUND, format!("{wal}: {error}\n")))?;
    let image = broker.metadata.image();
    let known = image.wals.get(&wal).ok_or_else(|| refused(format!("no write-ahead log is known as {wal}")))?;
    let lost: Vec<Value> = image
        .topics
        .values()
        .flat_map(|topic| (0..).zip(&topic.partitions).map(move |(index, one)| (topic, index, one)))
        .filter(|(_, _, one): &(_, i32, _)| one.leader == known.node)
        .map(|(topic, index, one)| {
            let end = image.streams.get(&one.stream).map_or(0, |stream| stream.end.0);
            json!({ "topic": &*topic.name, "partition": index, "kept_up_to_offset": end })
        })
        .collect();
    let leaders = plan_fail_over(&image, known.node);
    submit(&broker, Command::AbandonWal { wal, leaders }).await?;
    Ok(told(&json!({ "abandoned": wal.to_string(), "partitions": lost })))
}

/// The metadata quorum as its leader sees it.
pub(super) async fn quorum(State(broker): State<Arc<Broker>>) -> Response {
    let quorum = broker.member.quorum(QUORUM_DEADLINE).await;
    let members = broker.member.raft.members();
    let members: Vec<Value> = members
        .iter()
        .map(|(id, (address, votes))| {
            let mut replicas = quorum.voters.iter().chain(&quorum.observers);
            let log_end = replicas.find(|replica| replica.node == *id).map_or(0, |replica| replica.log_end.0);
            json!({ "id": id.0, "address": &**address, "votes": votes, "log_end": log_end })
        })
        .collect();
    let leader = quorum.leader.map(|leader| leader.0);
    told(&json!({ "leader": leader, "term": quorum.term, "committed_end": quorum.committed_end.0, "members": members }))
}

/// Gives a node a vote, takes it away, or forgets a node that has none.
pub(super) async fn change_quorum(
    State(broker): State<Arc<Broker>>,
    Path((id, change)): Path<(i32, String)>,
) -> Answer {
    let change = match change.as_str() {
        "add" => QuorumChange::AddVoter,
        "remove" => QuorumChange::RemoveVoter,
        "forget" => QuorumChange::Forget,
        other => return Err((StatusCode::NOT_FOUND, format!("{other} is none of add, remove, forget\n"))),
    };
    match broker.member.change_quorum(change, NodeId(id), QUORUM_DEADLINE).await {
        Ok(()) => Ok(quorum(State(broker)).await),
        Err(QuorumChangeError::Refused(reason) | QuorumChangeError::Unanswered(reason)) => Err(refused(reason)),
    }
}

/// The balancer: its mode, its newest decisions (of this process, while it was the active controller), and what it would do now.
pub(super) async fn balance(State(broker): State<Arc<Broker>>) -> Response {
    let balancing = &broker.member.balancing;
    let mode = format!("{:?}", balancing.mode()).to_lowercase();
    let active = broker.member.controller.is_active();
    let (nodes, plan) = balancing.plan();
    told(&json!({ "mode": mode, "active": active, "nodes": nodes, "decisions": balancing.decisions(), "plan": plan }))
}
