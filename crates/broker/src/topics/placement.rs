//! Virtual replicas. Data is durable without them; they tell clients which brokers would serve a partition, and
//! echo the replication factor that was asked for.

use std::sync::Arc;

use common::{NodeId, Random};
use metadata::MetadataImage;
use metadata::placement::Placer;
use protocol::ErrorCode;

use super::ChangeError;

/// Places new partitions of all topics of one request; small topics begin at a random broker.
#[must_use]
pub fn placer(image: &MetadataImage, random: &dyn Random) -> Placer {
    Placer::new(image, random.next_u64())
}

/// Replicas for `count` partitions.
///
/// # Errors
/// INVALID_REPLICATION_FACTOR, with Kafka's sentence.
pub fn place(placer: &mut Placer, count: usize, replication_factor: usize) -> Result<Vec<Arc<[NodeId]>>, ChangeError> {
    placer.place(count, replication_factor).map_err(|why| {
        let message = format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because {why}."
        );
        ChangeError::new(ErrorCode::InvalidReplicationFactor, message)
    })
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
    if !replicas.iter().any(|replica| image.is_live(*replica)) {
        return Err("All brokers specified in the manual partition assignment are fenced.".to_owned());
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
    fn more_replicas_than_brokers_are_refused_in_kafkas_words() {
        let place = |image: &MetadataImage, factor| place(&mut placer(image, &SeededRandom::new(7)), 1, factor);
        let error = place(&image(&[(1, false)]), 3).expect_err("too many");
        assert_eq!(error.code, ErrorCode::InvalidReplicationFactor);
        assert!(error.message.ends_with("because only 1 broker(s) are registered."), "{}", error.message);
        assert!(place(&image(&[(1, true)]), 1).expect_err("none").message.ends_with("all brokers are fenced."));
        assert_eq!(place(&image(&[(1, false), (2, true)]), 2).expect("placed")[0][..], [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn assignments_are_checked() {
        let image = image(&[(1, false), (2, false), (4, true)]);
        assert_eq!(check_assignment(&image, &[NodeId(1), NodeId(2)], None), Ok(()));
        assert_eq!(check_assignment(&image, &[NodeId(4), NodeId(2)], None), Ok(()));
        for (replicas, factor) in [
            (&[][..], None),
            (&[1, 1][..], None),
            (&[3][..], None),
            (&[-1][..], None),
            (&[4][..], None),
            (&[1][..], Some(2)),
        ] {
            let replicas: Vec<NodeId> = replicas.iter().map(|&id| NodeId(id)).collect();
            assert!(check_assignment(&image, &replicas, factor).is_err(), "{replicas:?}");
        }
    }
}
