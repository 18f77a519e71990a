//! One step of a member from what it has towards what it should have. Pure; Kafka's `CurrentAssignmentBuilder`.
//!
//! ```text
//!            something to give up, and the member may still own it
//!  Stable ──────────────────────────────────────────────► UnrevokedPartitions
//!    ▲ ▲                                                       │ given up
//!    │ └────── all of the target is free ──────────────────────┤
//!    └──────── UnreleasedPartitions ◄── others still own some ─┘
//! ```
//!
//! Only a member that has nothing to give up goes on to the assignment's epoch.

use uuid::Uuid;

use super::assignment::Assignment;
use super::member::{CurrentAssignment, MemberState};

/// What a step depends on besides the member's present state.
pub(super) struct Reconciliation<'a> {
    /// What it should have.
    pub(super) target: &'a Assignment,
    /// Epoch of the target.
    pub(super) assignment_epoch: i32,
    /// What the member says that it owns; `None` if it says nothing, so that it may own all it had.
    pub(super) owned: Option<&'a Assignment>,
    /// Whether a partition is owned by somebody.
    pub(super) is_owned: &'a dyn Fn(Uuid, i32) -> bool,
    /// Whether the member subscribes to the topic now. The target may be older than its subscription.
    pub(super) is_subscribed: &'a dyn Fn(Uuid) -> bool,
    /// The member's subscription has just changed: what it covers no more is to be given up even where the target is reached.
    pub(super) subscription_changed: bool,
}

impl Reconciliation<'_> {
    /// The state after the step; the same if there is nothing to do yet.
    pub(super) fn step(&self, current: &CurrentAssignment) -> CurrentAssignment {
        let is_settled = match current.state {
            MemberState::Stable => current.epoch == self.assignment_epoch,
            MemberState::UnrevokedPartitions => self.may_own_any_of(&current.pending_revocation),
            MemberState::UnreleasedPartitions => false,
        };
        match (is_settled, self.subscription_changed) {
            (false, _) => self.advance(current),
            (true, true) => self.shrink(current),
            (true, false) => current.clone(),
        }
    }

    /// Gives up what is not subscribed to any more; the rest stays.
    fn shrink(&self, current: &CurrentAssignment) -> CurrentAssignment {
        let (kept, dropped): (Vec<_>, Vec<_>) =
            current.assigned.iter().partition(|(topic, _)| (self.is_subscribed)(*topic));
        if dropped.is_empty() {
            return current.clone();
        }
        let pending: Assignment = current.pending_revocation.iter().chain(dropped).collect();
        let mut next = CurrentAssignment {
            previous_epoch: current.epoch,
            assigned: kept.into_iter().collect(),
            ..current.clone()
        };
        if self.may_own_any_of(&pending) {
            next.state = MemberState::UnrevokedPartitions;
            next.pending_revocation = pending;
        }
        next
    }

    fn advance(&self, current: &CurrentAssignment) -> CurrentAssignment {
        let is_wanted = |topic, partition| self.target.contains(topic, partition) && (self.is_subscribed)(topic);
        let (kept, dropped): (Vec<_>, Vec<_>) =
            current.assigned.iter().partition(|(topic, partition)| is_wanted(*topic, *partition));
        let dropped: Assignment = dropped.into_iter().collect();
        let mut assigned: Assignment = kept.into_iter().collect();
        if !dropped.is_empty() && self.may_own_any_of(&dropped) {
            return CurrentAssignment {
                epoch: current.epoch,
                previous_epoch: current.epoch,
                state: MemberState::UnrevokedPartitions,
                assigned,
                pending_revocation: dropped,
            };
        }
        let mut waits = false;
        for (topic, partition) in self.target.iter().filter(|(topic, _)| (self.is_subscribed)(*topic)) {
            if current.assigned.contains(topic, partition) {
                continue;
            }
            // What it has just given up is its own until this step, and free for it.
            let own = current.pending_revocation.contains(topic, partition);
            if !own && (self.is_owned)(topic, partition) {
                waits = true;
            } else {
                assigned.insert(topic, partition);
            }
        }
        CurrentAssignment {
            epoch: self.assignment_epoch,
            previous_epoch: current.epoch,
            state: if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable },
            assigned,
            pending_revocation: Assignment::default(),
        }
    }

    fn may_own_any_of(&self, pending: &Assignment) -> bool {
        self.owned.is_none_or(|owned| !owned.is_disjoint(pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(1);

    fn partitions(indexes: &[i32]) -> Assignment {
        indexes.iter().map(|index| (TOPIC, *index)).collect()
    }

    fn member(epoch: i32, state: MemberState, assigned: &[i32], pending: &[i32]) -> CurrentAssignment {
        CurrentAssignment {
            epoch,
            previous_epoch: epoch - 1,
            state,
            assigned: partitions(assigned),
            pending_revocation: partitions(pending),
        }
    }

    /// A step towards `target` of epoch 11, while others own `taken`.
    fn step(current: &CurrentAssignment, target: &[i32], taken: &[i32], owned: Option<&[i32]>) -> CurrentAssignment {
        let owned = owned.map(partitions);
        let is_owned = |_, partition: i32| taken.contains(&partition);
        Reconciliation {
            target: &partitions(target),
            assignment_epoch: 11,
            owned: owned.as_ref(),
            is_owned: &is_owned,
            is_subscribed: &|_| true,
            subscription_changed: false,
        }
        .step(current)
    }

    fn summary(current: &CurrentAssignment) -> (i32, i32, MemberState, Vec<i32>, Vec<i32>) {
        let indexes = |assignment: &Assignment| assignment.iter().map(|(_, partition)| partition).collect();
        let pending = indexes(&current.pending_revocation);
        (current.epoch, current.previous_epoch, current.state, indexes(&current.assigned), pending)
    }

    #[test]
    fn a_member_that_keeps_and_gains_goes_on_at_once() {
        let next = step(&member(10, MemberState::Stable, &[1, 2], &[]), &[1, 2, 3], &[], None);
        assert_eq!(summary(&next), (11, 10, MemberState::Stable, vec![1, 2, 3], vec![]));
    }

    #[test]
    fn one_owner_a_member_gives_up_before_it_goes_on() {
        let before = member(10, MemberState::Stable, &[1, 2], &[]);
        let next = step(&before, &[2, 3], &[], None);
        assert_eq!(summary(&next), (10, 10, MemberState::UnrevokedPartitions, vec![2], vec![1]));
        assert_eq!(step(&next, &[2, 3], &[], None), next, "nothing is known of what it owns");
        assert_eq!(step(&next, &[2, 3], &[], Some(&[1, 2])), next, "it owns it still");
        let next = step(&next, &[2, 3], &[], Some(&[2]));
        assert_eq!(summary(&next), (11, 10, MemberState::Stable, vec![2, 3], vec![]));
        let next = step(&before, &[2, 3], &[], Some(&[2]));
        assert_eq!(
            summary(&next),
            (11, 10, MemberState::Stable, vec![2, 3], vec![]),
            "it gave it up before it was asked"
        );
    }

    #[test]
    fn one_owner_what_others_own_is_waited_for() {
        let next = step(&member(10, MemberState::Stable, &[1], &[]), &[1, 2, 3], &[3], None);
        assert_eq!(summary(&next), (11, 10, MemberState::UnreleasedPartitions, vec![1, 2], vec![]));
        let same = step(&next, &[1, 2, 3], &[3], None);
        assert_eq!(summary(&same), (11, 11, MemberState::UnreleasedPartitions, vec![1, 2], vec![]));
        let next = step(&next, &[1, 2, 3], &[], None);
        assert_eq!(summary(&next), (11, 11, MemberState::Stable, vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_stable_member_stays() {
        let before = member(11, MemberState::Stable, &[1], &[]);
        assert_eq!(step(&before, &[1, 2], &[], None), before);
    }

    #[test]
    fn a_target_that_comes_back_needs_no_round() {
        let before = member(10, MemberState::UnrevokedPartitions, &[2], &[1]);
        let next = step(&before, &[1, 2], &[1], Some(&[2]));
        assert_eq!(summary(&next), (11, 10, MemberState::Stable, vec![1, 2], vec![]));
    }

    #[test]
    fn what_is_not_subscribed_to_any_more_goes_whatever_the_target_says() {
        let before = member(11, MemberState::Stable, &[1], &[]);
        let (target, owned) = (partitions(&[1]), partitions(&[1]));
        let mut reconciliation = Reconciliation {
            target: &target,
            assignment_epoch: 11,
            owned: Some(&owned),
            is_owned: &|_, _| false,
            is_subscribed: &|_| false,
            subscription_changed: true,
        };
        let next = reconciliation.step(&before);
        assert_eq!(summary(&next), (11, 11, MemberState::UnrevokedPartitions, vec![], vec![1]));
        let nothing = Assignment::default();
        reconciliation.owned = Some(&nothing);
        let next = reconciliation.step(&before);
        assert_eq!(summary(&next), (11, 11, MemberState::Stable, vec![], vec![]));
    }
}
