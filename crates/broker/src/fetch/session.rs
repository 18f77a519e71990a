//! Incremental fetch sessions (KIP-227): what a client last asked for and was last told, partition by partition,
//! so that requests and responses carry only what changed. Kafka's `FetchSession`.

use std::collections::HashMap;

use uuid::Uuid;

/// Session id of a request outside any session.
pub const NO_SESSION: i32 = 0;
/// Session epoch of a full request that may create a session.
pub const INITIAL_EPOCH: i32 = 0;
/// Session epoch of a request that ends its session, or wants none.
pub const FINAL_EPOCH: i32 = -1;

/// A session unused for this long may be evicted for any other; one that was in use for longer than this, for a larger
/// one. Kafka's `min.incremental.fetch.session.eviction.ms`.
const EVICTION_MS: u64 = 120_000;

/// Partitions that all sessions together may remember: some 50 MB. Kafka bounds only the number of sessions, but one
/// request can name a quarter of a million partitions.
const PARTITIONS_MAX: usize = 250_000;

/// A partition as Fetch requests name it: by topic id (version 13 and later) or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FetchKey {
    /// Topic id, nil in requests by name.
    pub topic_id: Uuid,
    /// Topic name, empty in requests by id.
    pub topic: kafka_protocol::protocol::StrBytes,
    /// Partition index.
    pub partition: i32,
}

/// What is asked of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchWish {
    /// First offset wanted.
    pub offset: i64,
    /// Most bytes of this partition.
    pub max_bytes: i32,
    /// The leader epoch the client knows, -1 if none.
    pub leader_epoch: i32,
}

/// What a session remembers of one partition.
#[derive(Clone, Debug)]
struct CachedPartition {
    key: FetchKey,
    wish: FetchWish,
    /// As last told to the client; -1 after an error, so that the next answer is sent in any case.
    high_watermark: i64,
    log_start: i64,
}

/// What the client would be told of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// High watermark.
    pub high_watermark: i64,
    /// Log start offset.
    pub log_start: i64,
    /// Whether an error is reported.
    pub error: bool,
    /// Whether records are returned.
    pub has_records: bool,
}

/// One session.
#[derive(Debug)]
struct Session {
    epoch: i32,
    uses_topic_ids: bool,
    /// In the order in which they are served: partitions that returned data move to the end.
    order: Vec<CachedPartition>,
    positions: HashMap<FetchKey, usize>,
    created_ms: u64,
    last_used_ms: u64,
}

/// All sessions of a broker, bounded by `max.incremental.fetch.session.cache.slots`.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    sessions: HashMap<i32, Session>,
    /// In all sessions.
    partitions: usize,
}

/// How a request is to be served.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchContext {
    /// Outside any session: everything asked for is answered.
    Sessionless,
    /// A full request that may get a session.
    Full,
    /// Within a session: answer what changed.
    Incremental {
        /// The session.
        id: i32,
    },
}

/// Why a session request fails as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// FETCH_SESSION_ID_NOT_FOUND.
    NotFound,
    /// INVALID_FETCH_SESSION_EPOCH.
    InvalidEpoch,
    /// FETCH_SESSION_TOPIC_ID_ERROR: names and ids are mixed.
    TopicIdError,
}

impl FetchSessions {
    /// No sessions, at most `slots` of them ever.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots, sessions: HashMap::new(), partitions: 0 }
    }

    /// Sessions open now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Classifies a request and, for an incremental one, brings its session up to date.
    pub fn begin(
        &mut self,
        id: i32,
        epoch: i32,
        by_topic_id: bool,
        wishes: &[(FetchKey, FetchWish)],
        forgotten: &[FetchKey],
        now_ms: u64,
    ) -> Result<FetchContext, SessionError> {
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.remove(id);
            let full = epoch == INITIAL_EPOCH;
            return Ok(if full { FetchContext::Full } else { FetchContext::Sessionless });
        }
        let session = self.sessions.get_mut(&id).ok_or(SessionError::NotFound)?;
        if session.epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_topic_ids != by_topic_id {
            return Err(SessionError::TopicIdError);
        }
        session.last_used_ms = now_ms;
        session.epoch = next_epoch(epoch);
        let before = session.order.len();
        session.update(wishes, forgotten);
        let now = session.order.len();
        self.partitions = self.partitions - before + now;
        if now == 0 {
            self.remove(id);
            return Ok(FetchContext::Sessionless);
        }
        if now > before && self.partitions > PARTITIONS_MAX {
            // The client asks for all again, and does without a session.
            self.remove(id);
            return Err(SessionError::NotFound);
        }
        Ok(FetchContext::Incremental { id })
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.order.len();
        }
    }

    /// What an incremental request asks for: everything its session remembers, in serving order.
    #[must_use]
    pub fn wishes(&self, id: i32) -> Vec<(FetchKey, FetchWish)> {
        let order = self.sessions.get(&id).map(|session| session.order.as_slice()).unwrap_or_default();
        order.iter().map(|cached| (cached.key.clone(), cached.wish)).collect()
    }

    /// Creates a session for a full request, if there is room; its id, or [`NO_SESSION`].
    pub fn create(
        &mut self,
        candidate_id: i32,
        by_topic_id: bool,
        wishes: &[(FetchKey, FetchWish)],
        told: &[Told],
        now_ms: u64,
    ) -> i32 {
        let taken = candidate_id <= NO_SESSION || self.sessions.contains_key(&candidate_id);
        if taken || wishes.is_empty() || !self.make_room(wishes.len(), now_ms) {
            return NO_SESSION;
        }
        let mut session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_topic_ids: by_topic_id,
            order: Vec::with_capacity(wishes.len()),
            positions: HashMap::with_capacity(wishes.len()),
            created_ms: now_ms,
            last_used_ms: now_ms,
        };
        session.update(wishes, &[]);
        for ((key, _), told) in wishes.iter().zip(told) {
            session.must_tell(key, *told);
        }
        self.partitions += session.order.len();
        self.sessions.insert(candidate_id, session);
        candidate_id
    }

    /// For each answer, whether the client must be told of it because something changed since it last was.
    /// What it is told becomes what it knows; partitions with records move to the end of the serving order.
    pub fn filter(&mut self, id: i32, answers: &[(FetchKey, Told)]) -> Vec<bool> {
        let Some(session) = self.sessions.get_mut(&id) else { return vec![true; answers.len()] };
        let tell = answers.iter().map(|(key, told)| session.must_tell(key, *told)).collect();
        session.rotate(answers.iter().filter(|(_, told)| told.has_records).map(|(key, _)| key));
        tell
    }

    /// As Kafka's `FetchSessionCache`: the session longest unused goes if that is long enough; else the smallest, for a
    /// larger one, but only after it has been in use for as long.
    fn make_room(&mut self, size: usize, now_ms: u64) -> bool {
        if self.partitions + size > PARTITIONS_MAX {
            return false;
        }
        if self.sessions.len() < self.slots {
            return true;
        }
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used_ms);
        let idle =
            oldest.filter(|(_, session)| now_ms.saturating_sub(session.last_used_ms) > EVICTION_MS).map(|(id, _)| *id);
        let smaller = || {
            let tried = |session: &Session| session.last_used_ms.saturating_sub(session.created_ms) > EVICTION_MS;
            let evictable = self.sessions.iter().filter(|(_, session)| tried(session));
            let (id, smallest) = evictable.min_by_key(|(id, session)| (session.order.len(), **id))?;
            (smallest.order.len() < size).then_some(*id)
        };
        let Some(evicted) = idle.or_else(smaller) else { return false };
        self.remove(evicted);
        true
    }
}

impl Session {
    fn update(&mut self, wishes: &[(FetchKey, FetchWish)], forgotten: &[FetchKey]) {
        for (key, wish) in wishes {
            if let Some(position) = self.positions.get(key) {
                self.order[*position].wish = *wish;
            } else {
                self.positions.insert(key.clone(), self.order.len());
                self.order.push(CachedPartition { key: key.clone(), wish: *wish, high_watermark: -1, log_start: -1 });
            }
        }
        if !forgotten.is_empty() {
            let gone: std::collections::HashSet<&FetchKey> = forgotten.iter().collect();
            self.order.retain(|cached| !gone.contains(&cached.key));
            self.index();
        }
    }

    fn index(&mut self) {
        self.positions = self.order.iter().enumerate().map(|(i, cached)| (cached.key.clone(), i)).collect();
    }

    fn must_tell(&mut self, key: &FetchKey, told: Told) -> bool {
        let Some(position) = self.positions.get(key) else { return true };
        let cached = &mut self.order[*position];
        let changed = cached.high_watermark != told.high_watermark || cached.log_start != told.log_start;
        cached.high_watermark = if told.error { -1 } else { told.high_watermark };
        cached.log_start = told.log_start;
        changed || told.error || told.has_records
    }

    fn rotate<'a>(&mut self, served: impl Iterator<Item = &'a FetchKey>) {
        let served: std::collections::HashSet<&FetchKey> = served.collect();
        if served.is_empty() || served.len() == self.order.len() {
            return;
        }
        let (mut rest, moved): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.order).into_iter().partition(|cached| !served.contains(&cached.key));
        rest.extend(moved);
        self.order = rest;
        self.index();
    }
}

/// Epochs count from 1 and wrap to 1.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> FetchKey {
        FetchKey { topic_id: Uuid::from_u128(1), topic: Default::default(), partition }
    }

    fn wish(offset: i64) -> FetchWish {
        FetchWish { offset, max_bytes: 100, leader_epoch: -1 }
    }

    const QUIET: Told = Told { high_watermark: 5, log_start: 0, error: false, has_records: false };

    fn session_of(partitions: i32) -> (FetchSessions, i32) {
        let mut sessions = FetchSessions::new(2);
        let wishes: Vec<_> = (0..partitions).map(|p| (key(p), wish(0))).collect();
        assert_eq!(sessions.begin(0, 0, true, &wishes, &[], 1), Ok(FetchContext::Full));
        let told = vec![QUIET; wishes.len()];
        let id = sessions.create(7, true, &wishes, &told, 1);
        assert_eq!(id, 7);
        (sessions, id)
    }

    #[test]
    fn an_incremental_request_asks_for_all_and_is_told_what_changed() {
        let (mut sessions, id) = session_of(3);
        let context = sessions.begin(id, 1, true, &[(key(1), wish(9))], &[key(2)], 2);
        assert_eq!(context, Ok(FetchContext::Incremental { id }));
        assert_eq!(sessions.wishes(id), vec![(key(0), wish(0)), (key(1), wish(9))]);
        let moved = Told { high_watermark: 6, ..QUIET };
        assert_eq!(sessions.filter(id, &[(key(0), QUIET), (key(1), moved)]), vec![false, true]);
        assert_eq!(sessions.filter(id, &[(key(0), QUIET), (key(1), moved)]), vec![false, false]);
    }

    #[test]
    fn after_an_error_the_next_answer_is_always_told() {
        let (mut sessions, id) = session_of(1);
        let error = Told { error: true, high_watermark: -1, log_start: -1, has_records: false };
        assert_eq!(sessions.filter(id, &[(key(0), error)]), vec![true]);
        assert_eq!(sessions.filter(id, &[(key(0), QUIET)]), vec![true]);
        assert_eq!(sessions.filter(id, &[(key(0), QUIET)]), vec![false]);
    }

    #[test]
    fn partitions_with_records_move_to_the_end() {
        let (mut sessions, id) = session_of(3);
        let data = Told { has_records: true, ..QUIET };
        sessions.filter(id, &[(key(0), data), (key(1), QUIET), (key(2), QUIET)]);
        let order: Vec<i32> = sessions.wishes(id).iter().map(|(key, _)| key.partition).collect();
        assert_eq!(order, vec![1, 2, 0]);
    }

    #[test]
    fn wrong_sessions_are_refused_with_kafkas_errors() {
        let (mut sessions, id) = session_of(1);
        assert_eq!(sessions.begin(99, 1, true, &[], &[], 2), Err(SessionError::NotFound));
        assert_eq!(sessions.begin(id, 5, true, &[], &[], 2), Err(SessionError::InvalidEpoch));
        assert_eq!(sessions.begin(id, 1, false, &[], &[], 2), Err(SessionError::TopicIdError));
        assert_eq!(sessions.begin(id, FINAL_EPOCH, true, &[], &[], 2), Ok(FetchContext::Sessionless));
        assert_eq!(sessions.begin(id, 1, true, &[], &[], 2), Err(SessionError::NotFound));
    }

    #[test]
    fn a_session_goes_when_it_is_idle_or_for_a_larger_one_when_it_has_been_in_use_long_enough() {
        let (mut sessions, _) = session_of(2);
        let wishes = |count: i32| (0..count).map(|p| (key(p), wish(0))).collect::<Vec<_>>();
        assert_eq!(sessions.create(8, true, &wishes(1), &[QUIET], 1), 8);
        assert_eq!(sessions.create(9, true, &wishes(5), &[], 1), NO_SESSION, "nobody had the time to use theirs");
        let later = 1 + EVICTION_MS + 1;
        assert_eq!(sessions.begin(7, 1, true, &[], &[], later), Ok(FetchContext::Incremental { id: 7 }));
        assert_eq!(sessions.begin(8, 1, true, &[], &[], later), Ok(FetchContext::Incremental { id: 8 }));
        assert_eq!(sessions.create(9, true, &wishes(1), &[], later), NO_SESSION, "not larger");
        assert_eq!(sessions.create(9, true, &wishes(2), &[], later), 9, "larger than session 8");
        assert_eq!(sessions.create(10, true, &wishes(2), &[], later), NO_SESSION, "9 is new, 7 as large");
        assert_eq!(sessions.create(11, true, &wishes(1), &[], later + EVICTION_MS + 1), 11, "they are idle");
        assert_eq!((sessions.len(), sessions.partitions), (2, 3));
    }

    #[test]
    fn partitions_of_all_sessions_are_bounded() {
        let mut sessions = FetchSessions::new(1000);
        let wishes = |count: usize| (0..count as i32).map(|p| (key(p), wish(0))).collect::<Vec<_>>();
        assert_eq!(sessions.create(1, true, &wishes(PARTITIONS_MAX + 1), &[], 1), NO_SESSION);
        assert_eq!(sessions.create(2, true, &wishes(PARTITIONS_MAX - 1), &[], 1), 2);
        assert_eq!(sessions.create(3, true, &wishes(2), &[], 1), NO_SESSION);
        assert_eq!(sessions.create(3, true, &wishes(1), &[], 1), 3);
        let more = [(key(1), wish(0))];
        assert_eq!(sessions.begin(3, 1, true, &more, &[], 1), Err(SessionError::NotFound));
        assert_eq!((sessions.len(), sessions.partitions), (1, PARTITIONS_MAX - 1));
        assert_eq!(sessions.begin(2, 1, true, &[], &[], 1), Ok(FetchContext::Incremental { id: 2 }));
        assert_eq!(sessions.begin(2, FINAL_EPOCH, true, &[], &[], 1), Ok(FetchContext::Sessionless));
        assert_eq!(sessions.partitions, 0);
    }
}
