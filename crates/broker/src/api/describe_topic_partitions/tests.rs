use common::{NodeId, StreamId};
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor as RequestCursor, TopicRequest};
use uuid::Uuid;

use super::*;

fn image(topics: &[(&str, usize)]) -> MetadataImage {
    let mut image = MetadataImage::default();
    for (index, &(name, partitions)) in topics.iter().enumerate() {
        let partition = PartitionImage {
            leader: NodeId(1),
            leader_epoch: 3,
            replicas: Arc::from([NodeId(1)]),
            stream: StreamId(0),
        };
        let id = Uuid::from_u128(index as u128 + 1);
        let topic = TopicImage { id, name: Arc::from(name), partitions: vec![partition; partitions] };
        image.topic_ids.insert(Arc::from(name), id);
        image.topics.insert(id, Arc::new(topic));
    }
    image
}

fn request(names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
    let topics = names.iter().map(|name| TopicRequest::default().with_name(topic_name(name))).collect();
    let cursor = cursor.map(|(name, partition)| {
        RequestCursor::default().with_topic_name(topic_name(name)).with_partition_index(partition)
    });
    DescribeTopicPartitionsRequest::default()
        .with_topics(topics)
        .with_response_partition_limit(limit)
        .with_cursor(cursor)
}

/// Topic, partition indices and code of each topic, and the cursor.
type Told = (Vec<(String, Vec<i32>, i16)>, Option<(String, i32)>);

fn told(image: &MetadataImage, request: &DescribeTopicPartitionsRequest) -> Told {
    let response = page(image, request);
    let topics = response.topics.into_iter().map(|topic| {
        let indices = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        (topic.name.unwrap_or_default().to_string(), indices, topic.error_code)
    });
    let cursor = response.next_cursor.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
    (topics.collect(), cursor)
}

fn topic(name: &str, partitions: std::ops::Range<i32>) -> (String, Vec<i32>, i16) {
    (name.to_owned(), partitions.collect(), 0)
}

#[test]
fn pages_follow_each_other_without_gap() {
    let image = image(&[("b", 3), ("a", 2), ("c", 1)]);
    let first = told(&image, &request(&[], 4, None));
    assert_eq!(first, (vec![topic("a", 0..2), topic("b", 0..2)], Some(("b".to_owned(), 2))));
    let second = told(&image, &request(&[], 4, Some(("b", 2))));
    assert_eq!(second, (vec![topic("b", 2..3), topic("c", 0..1)], None));
    let exact = told(&image, &request(&[], 2, None));
    assert_eq!(exact, (vec![topic("a", 0..2)], Some(("b".to_owned(), 0))));
}

#[test]
fn names_are_answered_in_order_with_their_errors() {
    let image = image(&[("b", 1), ("a", 1)]);
    let (topics, cursor) = told(&image, &request(&["b", "x y", "a", "b", "nope"], 100, None));
    assert_eq!(cursor, None);
    let expected = [("a", 0), ("b", 0), ("nope", 3), ("x y", 17)];
    assert_eq!(topics.iter().map(|(name, _, code)| (name.as_str(), *code)).collect::<Vec<_>>(), expected);
}

#[test]
fn odd_limits_and_cursors() {
    let image = image(&[("a", 2), ("c", 1)]);
    assert_eq!(told(&image, &request(&[], -5, None)), (vec![topic("a", 0..1)], Some(("a".to_owned(), 1))));
    // The topic of the cursor is gone: the next one starts at its first partition.
    assert_eq!(told(&image, &request(&[], 9, Some(("b", 7)))), (vec![topic("c", 0..1)], None));
    assert_eq!(told(&image, &request(&[], 9, Some(("a", 7)))).0[0], topic("a", 0..0));
    assert_eq!(told(&image, &request(&["a"], 9, Some(("a", -1)))).0[0].2, 42);
}
