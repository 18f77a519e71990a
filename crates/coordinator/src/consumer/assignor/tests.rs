use super::*;

/// Subscriptions as topic numbers, targets as (topic, partition).
struct Group {
    ids: Vec<Arc<str>>,
    topics: Vec<Vec<u128>>,
    targets: Vec<Assignment>,
    partitions: BTreeMap<Uuid, i32>,
}

impl Group {
    fn new(subscriptions: &[&[u128]], partitions: &[(u128, i32)]) -> Self {
        Self {
            ids: (0..subscriptions.len()).map(|index| format!("m{index:03}").into()).collect(),
            topics: subscriptions.iter().map(|topics| topics.to_vec()).collect(),
            targets: vec![Assignment::default(); subscriptions.len()],
            partitions: partitions.iter().map(|(topic, count)| (Uuid::from_u128(*topic), *count)).collect(),
        }
    }

    /// Assigns anew; returns how many partitions each member has.
    fn assign(&mut self, assignor: Assignor) -> Vec<usize> {
        let members: Vec<Subscriber<'_>> = (0..self.ids.len())
            .map(|index| Subscriber {
                id: &self.ids[index],
                instance_id: None,
                topics: self.topics[index].iter().map(|topic| Uuid::from_u128(*topic)).collect(),
                target: &self.targets[index],
            })
            .collect();
        let targets = assignor.assign(&members, &self.partitions);
        self.targets = targets;
        self.check();
        self.targets.iter().map(Assignment::len).collect()
    }

    /// Every partition of a topic with a subscriber has one owner, which subscribes to it.
    fn check(&self) {
        let mut owners = BTreeMap::new();
        for (index, target) in self.targets.iter().enumerate() {
            for (topic, partition) in target.iter() {
                assert!(self.topics[index].contains(&topic.as_u128()), "member {index} does not subscribe to {topic}");
                assert!((0..self.partitions[&topic]).contains(&partition));
                assert_eq!(owners.insert((topic, partition), index), None, "one-owner: {topic}-{partition}");
            }
        }
        let wanted = |topic: &Uuid| self.topics.iter().any(|topics| topics.contains(&topic.as_u128()));
        let count: i32 = self.partitions.iter().filter(|(topic, _)| wanted(topic)).map(|(_, count)| count).sum();
        assert_eq!(owners.len(), count as usize, "every partition has an owner");
    }

    fn owner(&self, topic: u128, partition: i32) -> usize {
        let owns = |target: &Assignment| target.contains(Uuid::from_u128(topic), partition);
        self.targets.iter().position(owns).expect("an owner")
    }
}

#[test]
fn range_gives_each_index_of_all_topics_to_one_member() {
    let mut group = Group::new(&[&[1, 2], &[1, 2], &[1, 2]], &[(1, 7), (2, 7)]);
    assert_eq!(group.assign(Assignor::Range), [6, 4, 4]);
    for partition in 0..7 {
        assert_eq!(group.owner(1, partition), group.owner(2, partition));
    }
    assert_eq!((group.owner(1, 0), group.owner(1, 2), group.owner(1, 3), group.owner(1, 6)), (0, 0, 1, 2));
}

#[test]
fn range_leaves_members_without_partitions_where_there_are_too_few() {
    let mut group = Group::new(&[&[1], &[1], &[1]], &[(1, 2)]);
    assert_eq!(group.assign(Assignor::Range), [1, 1, 0]);
}

#[test]
fn uniform_is_even_over_all_topics() {
    let mut group = Group::new(&[&[1, 2, 3], &[1, 2, 3]], &[(1, 1), (2, 1), (3, 1)]);
    let mut counts = group.assign(Assignor::Uniform);
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
}

#[test]
fn uniform_moves_no_more_than_a_newcomer_needs() {
    let mut group = Group::new(&[&[1], &[1]], &[(1, 12)]);
    assert_eq!(group.assign(Assignor::Uniform), [6, 6]);
    let before: Vec<usize> = (0..12).map(|partition| group.owner(1, partition)).collect();
    group.ids.push("m002".into());
    group.topics.push(vec![1]);
    group.targets.push(Assignment::default());
    assert_eq!(group.assign(Assignor::Uniform), [4, 4, 4]);
    let moved = (0..12).filter(|partition| group.owner(1, *partition) != before[*partition as usize]).count();
    assert_eq!(moved, 4);
    let again: Vec<Assignment> = group.targets.clone();
    group.assign(Assignor::Uniform);
    assert_eq!(group.targets, again, "what is even stays");
}

#[test]
fn uniform_balances_members_with_different_subscriptions() {
    let mut group = Group::new(&[&[1, 2], &[1], &[2]], &[(1, 6), (2, 6)]);
    assert_eq!(group.assign(Assignor::Uniform), [4, 4, 4]);
    let mut group = Group::new(&[&[1, 2, 3], &[3]], &[(1, 2), (2, 2), (3, 4)]);
    assert_eq!(group.assign(Assignor::Uniform), [4, 4]);
}

proptest::proptest! {
    /// Even, complete, and stable when nothing changes, whatever members come and go.
    #[test]
    fn uniform_holds_over_histories(
        steps in proptest::collection::vec((0_usize..8, 1_u8..8, 0_i32..20), 1..30),
    ) {
        let mut group = Group::new(&[], &[(1, 3), (2, 5), (3, 1)]);
        for (index, (position, subscription, partitions)) in steps.into_iter().enumerate() {
            if position < group.ids.len() {
                group.ids.remove(position);
                group.topics.remove(position);
                group.targets.remove(position);
            } else {
                group.ids.push(format!("n{index:03}").into());
                group.topics.push((1..=3).filter(|topic| subscription & (1 << (topic - 1)) != 0).collect());
                group.targets.push(Assignment::default());
                let grown = group.partitions.get_mut(&Uuid::from_u128(1)).expect("topic 1");
                *grown = (*grown).max(partitions);
            }
            let counts = group.assign(Assignor::Uniform);
            for (from, from_count) in counts.iter().enumerate() {
                for (to, to_count) in counts.iter().enumerate() {
                    let could_move = group.targets[from].iter().any(|(topic, _)| group.topics[to].contains(&topic.as_u128()));
                    proptest::prop_assert!(!could_move || *from_count < to_count + 2, "{counts:?}");
                }
            }
            let targets = group.targets.clone();
            group.assign(Assignor::Uniform);
            proptest::prop_assert_eq!(&targets, &group.targets);
        }
    }
}
