//! Random histories of several members against what must always hold. `OTTLA_GROUP_HISTORIES` sets how many.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::harness::{GROUP, Harness, histories, join_request, protocols, string};
use crate::{CoordinatorRecord, GroupConfig, GroupState, Persisted, Response, Token};

#[derive(Clone, Debug)]
enum Action {
    /// Member `0..MEMBERS` does the next thing its client would do.
    Act(usize),
    /// A member's process dies without a word; it comes back with nothing (a static one with its instance id).
    Crash(usize),
    Leave(usize),
    /// The member changes what it supports.
    Change(usize, bool),
    Commit(usize, i32),
    /// A request under a stale generation or id.
    Stale(usize),
    Wait(i64),
    Restart,
}

const MEMBERS: usize = 5;

fn action() -> impl Strategy<Value = Action> {
    let member = 0..MEMBERS;
    prop_oneof![
        12 => member.clone().prop_map(Action::Act),
        2 => member.clone().prop_map(Action::Crash),
        1 => member.clone().prop_map(Action::Leave),
        2 => (member.clone(), any::<bool>()).prop_map(|(member, both)| Action::Change(member, both)),
        4 => (member.clone(), 0..3_i32).prop_map(|(member, partition)| Action::Commit(member, partition)),
        1 => member.prop_map(Action::Stale),
        6 => prop_oneof![1..1_000_i64, 1_000..20_000_i64, 60_000..70_000_i64].prop_map(Action::Wait),
        1 => Just(Action::Restart),
    ]
}

/// A client, as simple as one can be: it acts on the answers it gets.
#[derive(Clone, Debug, Default)]
struct Client {
    id: String,
    instance: Option<String>,
    generation: i32,
    leads: Vec<String>,
    needs_join: bool,
    both_protocols: bool,
    waiting: Option<Token>,
    synced: bool,
}

struct History {
    harness: Harness,
    clients: Vec<Client>,
    all_tokens: Vec<Token>,
    committed: BTreeMap<i32, i64>,
    next_offset: i64,
    last_generation: i32,
}

impl History {
    fn new() -> Self {
        let client = |index: usize| Client {
            instance: (index % 2 == 1).then(|| format!("instance-{index}")),
            needs_join: true,
            ..Client::default()
        };
        Self {
            harness: Harness::with(GroupConfig { max_size: MEMBERS - 1, ..GroupConfig::default() }),
            clients: (0..MEMBERS).map(client).collect(),
            all_tokens: Vec::new(),
            committed: BTreeMap::new(),
            next_offset: 0,
            last_generation: 0,
        }
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Act(member) => self.act(*member),
            Action::Crash(member) => {
                let client = &mut self.clients[*member];
                *client = Client { instance: client.instance.take(), needs_join: true, ..Client::default() };
            }
            Action::Leave(member) => {
                let client = self.clients[*member].clone();
                self.harness.leave(&[(&client.id, client.instance.as_deref())]);
                self.run(&Action::Crash(*member));
            }
            Action::Change(member, both) => self.clients[*member].both_protocols = *both,
            Action::Commit(member, partition) => self.commit(*member, *partition),
            Action::Stale(member) => {
                let client = self.clients[*member].clone();
                let code = self.harness.heartbeat(&client.id, client.generation + 1_000);
                assert_ne!(code, 0, "a heartbeat of the future");
                let code = self.harness.commit(&client.id, client.generation + 1_000, "topic", 0);
                assert_ne!(code, 0, "a commit of the future");
            }
            Action::Wait(ms) => self.harness.advance(*ms),
            Action::Restart => {
                self.harness.restart();
                // Connections broke: whoever waited asks again.
                for client in &mut self.clients {
                    client.needs_join |= client.waiting.take().is_some();
                }
                self.all_tokens.clear();
                self.last_generation = 0;
            }
        }
        self.read_answers();
        self.check();
    }

    fn act(&mut self, member: usize) {
        let client = self.clients[member].clone();
        if client.waiting.is_some() {
            return;
        }
        let token = if client.needs_join {
            let names: &[&str] = if client.both_protocols { &["sticky", "range"] } else { &["range"] };
            let request = join_request(&client.id)
                .with_group_instance_id(client.instance.as_deref().map(string))
                .with_protocols(protocols(names));
            self.harness.join(request)
        } else if client.synced {
            let code = self.harness.heartbeat_as(&client.id, client.instance.as_deref(), client.generation);
            self.on_error(member, code);
            return;
        } else {
            let assignments: Vec<(&str, &'static [u8])> =
                client.leads.iter().map(|id| (id.as_str(), &b"a"[..])).collect();
            self.harness.sync_with(&client.id, client.generation, &assignments)
        };
        self.all_tokens.push(token);
        self.clients[member].waiting = Some(token);
    }

    fn commit(&mut self, member: usize, partition: i32) {
        let client = self.clients[member].clone();
        if !client.synced {
            return;
        }
        self.next_offset += 1;
        let request = Harness::commit_request(&client.id, client.generation, "topic", partition, self.next_offset);
        let code = self.harness.commit_version(9, request);
        if code == 0 {
            self.committed.insert(partition, self.next_offset);
        }
        self.on_error(member, code);
    }

    fn on_error(&mut self, member: usize, code: i16) {
        let client = &mut self.clients[member];
        match code {
            0 => {}
            // UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, GROUP_MAX_SIZE_REACHED; GROUP_ID_NOT_FOUND where the group emptied
            // without offsets, and was removed, behind the member's back: start from nothing.
            25 | 82 | 81 | 69 => {
                *client = Client { instance: client.instance.take(), needs_join: true, ..Client::default() }
            }
            22 | 27 => {
                client.needs_join = true;
                client.synced = false;
            }
            23 => client.both_protocols = false,
            other => panic!("no answer to expect here: {other}"),
        }
    }

    fn read_answers(&mut self) {
        for member in 0..MEMBERS {
            let Some(token) = self.clients[member].waiting else { continue };
            let Some(response) = self.harness.answers.get(&token).cloned() else { continue };
            self.clients[member].waiting = None;
            match response {
                Response::Join(response) if response.error_code == 0 => {
                    let client = &mut self.clients[member];
                    client.id = response.member_id.to_string();
                    client.generation = response.generation_id;
                    client.leads = response.members.iter().map(|member| member.member_id.to_string()).collect();
                    if response.leader == response.member_id {
                        assert!(client.leads.contains(&client.id), "the leader is among the members it is told of");
                    } else {
                        assert!(client.leads.is_empty());
                    }
                    (client.needs_join, client.synced) = (false, false);
                }
                Response::Join(response) if response.error_code == 79 => {
                    self.clients[member].id = response.member_id.to_string()
                }
                Response::Join(response) => self.on_error(member, response.error_code),
                Response::Sync(response) if response.error_code == 0 => self.clients[member].synced = true,
                Response::Sync(response) => self.on_error(member, response.error_code),
                other => panic!("neither join nor sync: {other:?}"),
            }
        }
    }

    fn check(&mut self) {
        if let Some(group) = self.harness.shard.groups.get(GROUP) {
            group.check();
            assert!(group.generation >= self.last_generation, "generations never go back while the shard lives");
            self.last_generation = group.generation;
        } else {
            // An empty group without offsets was removed; its next life starts anew.
            self.last_generation = 0;
        }
        let mut replayed = Persisted::default();
        self.harness.log.iter().for_each(|record| replayed.replay(record));
        assert_eq!(&replayed, self.harness.shard.persisted());
        assert_eq!(Persisted::restore(&replayed.checkpoint()).as_ref(), Ok(&replayed));
        for (partition, offset) in &self.committed {
            let found = replayed.offset(GROUP, "topic", *partition).map(|committed| committed.offset);
            assert_eq!(found, Some(*offset), "partition {partition}");
        }
    }

    /// Left alone, everybody is answered; then clients that go on reach a stable group.
    fn settle(&mut self) {
        self.harness.advance(10 * 60_000);
        for token in &self.all_tokens {
            assert!(self.harness.answers.contains_key(token), "{token:?} was never answered");
        }
        for round in 0..200 {
            self.read_answers();
            // One more client than the group takes: the last stays away.
            (0..MEMBERS - 1).for_each(|member| self.act(member));
            self.read_answers();
            let synced = self.clients[..MEMBERS - 1].iter().filter(|client| client.synced).count();
            if synced == MEMBERS - 1 && self.harness.state() == Some(GroupState::Stable) {
                break;
            }
            assert!(round < 199, "the group does not settle: {:?}", self.clients);
            self.harness.advance(1_000);
        }
        let group = &self.harness.shard.groups[GROUP];
        let current = self.clients.iter().filter(|client| client.synced && client.generation == group.generation);
        let leaders = current.filter(|client| group.member(&client.id).is_some() && !client.leads.is_empty()).count();
        assert!(leaders <= 1, "one leader at most was told the members");
        self.check_generations_in_the_log();
    }

    /// Generations of one group only grow in the log, until a tombstone ends its life.
    fn check_generations_in_the_log(&self) {
        let mut last = -1;
        for record in &self.harness.log {
            match record {
                CoordinatorRecord::Group { value: Some(value), .. } => {
                    assert!(value.generation >= last, "generation {} after {last}", value.generation);
                    last = value.generation;
                }
                CoordinatorRecord::Group { value: None, .. } => last = -1,
                CoordinatorRecord::Offset { .. }
                | CoordinatorRecord::StagedOffset { .. }
                | CoordinatorRecord::Consumer(_) => {}
            }
        }
    }
}

#[test]
fn random_histories_keep_every_invariant() {
    histories(action(), |actions| {
        let mut history = History::new();
        actions.iter().for_each(|action| history.run(action));
        history.settle();
    });
}
