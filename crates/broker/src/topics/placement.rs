//! Virtual replicas. Data is durable without them; they tell clients which brokers would serve a partition, and
//! echo the replication factor that was asked for.

use std::sync::Arc;

use common::{NodeId, Random};
use metadata::MetadataImage;

/// Replicas for `count` partitions that follow the `existing` first ones: leaders take turns among the live
/// brokers from a random start, followers are the brokers after the leader.
///
/// # Errors
/// Kafka's sentence for INVALID_REPLICATION_FACTOR.
pub fn place(
    image: &MetadataImage,
    random: &dyn Random,
    count: usize,
    replication_factor: usize,
) -> Result<Vec<Arc<[NodeId]>>, String> {
    let registered = image.nodes.len();
    let live: Vec<NodeId> = image.nodes.values().filter(|node| !node.fenced).map(|node| node.id).collect();
    let unable = |why: String| {
        Err(format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because {why}."
        ))
    };
    if replication_factor > registered {
        return unable(format!("only {registered} broker(s) are registered"));
    }
    if live.is_empty() {
        return unable("all brokers are fenced".to_owned());
    }
    let fenced = image.nodes.values().filter(|node| node.fenced).map(|node| node.id);
    let order: Vec<NodeId> = live.iter().copied().chain(fenced).collect();
    let start = usize::try_from(random.below(live.len() as u64)).unwrap_or(0);
    let replicas = |partition: usize| {
        let leader = (start + partition) % live.len();
        let others = (1..order.len()).map(|step| (leader + step) % order.len());
        let followers = others.map(|index| order[index]).take(replication_factor - 1);
        std::iter::once(order[leader]).chain(followers).collect()
    };
    Ok((0..count).map(replicas).collect())
}

/// Checks one partition's replicas as a client gave them.
///
/// # Errors
/// Kafka's sentence for INVALID_REPLICA_ASSIGNMENT.
pub fn check_assignment(image: &MetadataImage, replicas: &[NodeId], factor: Option<usize>) -> Result<(), String> {
    if replicas.is_empty() {
        return Err("The manual partition assignment includes an empty replica list.".to_owned());
    }
    for (index, replica) in replicas.iter().enumerate() {
        if !image.nodes.contains_key(replica) {
            return Err(format!(
                "The manual partition assignment includes broker {replica}, but no such broker is registered."
            ));
        }
        if replicas[..index].contains(replica) {
            return Err(format!("The manual partition assignment includes the broker {replica} more than once."));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => Err(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
             with previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use common::{NodeEpoch, SeededRandom};
    use metadata::{NodeImage, Registration};
    use uuid::Uuid;

    use super::*;

    fn image(nodes: &[(i32, bool)]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for &(id, fenced) in nodes {
            let mut node = NodeImage::new(&Registration::new(NodeId(id), Uuid::nil()), NodeEpoch(1));
            node.fenced = fenced;
            image.nodes.insert(NodeId(id), Arc::new(node));
        }
        image
    }

    #[test]
    fn leaders_take_turns_and_replicas_differ() {
        let placed = place(&image(&[(1, false), (2, false), (3, false)]), &SeededRandom::new(7), 6, 3).expect("placed");
        for id in 1..=3 {
            assert_eq!(placed.iter().filter(|replicas| replicas[0] == NodeId(id)).count(), 2);
        }
        for replicas in &placed {
            let mut sorted: Vec<_> = replicas.to_vec();
            sorted.sort();
            assert_eq!(sorted, [NodeId(1), NodeId(2), NodeId(3)]);
        }
    }

    #[test]
    fn fenced_brokers_never_lead() {
        let placed = place(&image(&[(1, true), (2, false)]), &SeededRandom::new(7), 4, 2).expect("placed");
        assert!(placed.iter().all(|replicas| replicas[..] == [NodeId(2), NodeId(1)]));
    }

    #[test]
    fn more_replicas_than_brokers_are_refused() {
        let error = place(&image(&[(1, false)]), &SeededRandom::new(7), 1, 3).expect_err("too many");
        assert!(error.contains("only 1 broker(s) are registered"), "{error}");
        assert!(place(&image(&[(1, true)]), &SeededRandom::new(7), 1, 1).is_err());
    }

    #[test]
    fn assignments_are_checked() {
        let image = image(&[(1, false), (2, false)]);
        assert_eq!(check_assignment(&image, &[NodeId(1), NodeId(2)], None), Ok(()));
        for (replicas, factor) in
            [(&[][..], None), (&[1, 1][..], None), (&[3][..], None), (&[-1][..], None), (&[1][..], Some(2))]
        {
            let replicas: Vec<NodeId> = replicas.iter().map(|&id| NodeId(id)).collect();
            assert!(check_assignment(&image, &replicas, factor).is_err(), "{replicas:?}");
        }
    }
}
