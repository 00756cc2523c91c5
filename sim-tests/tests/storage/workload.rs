//! A seeded workload on a Raft log, and the model that says what must be found after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderIdExt;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rollcall_registry::disk::{Disk, StoreError};
use rollcall_registry::host::WriterMode;
use rollcall_registry::raft::log::{Fatal, LogOptions, LogStore};
use rollcall_registry::raft::types::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Member, Membership, Proposal, TypeConfig, Vote,
};

pub(crate) const NODE_ID: u64 = 0xabcd;
pub(crate) const CLUSTER_ID: u128 = 7 << 100 | 9;

pub(crate) fn data_dir() -> PathBuf {
    PathBuf::from("/data")
}

pub(crate) fn log_path() -> PathBuf {
    data_dir().join("raft.log")
}

pub(crate) fn options(dir: &Path, writer: WriterMode) -> LogOptions {
    LogOptions {
        dir: dir.to_owned(),
        node_id: NODE_ID,
        cluster_id: None,
        must_exist: false,
        writer,
        // Small, so that reads go to the file as well.
        tail_bytes_max: 4096,
    }
}

pub(crate) fn open_log(disk: impl Disk) -> Result<(LogStore, Fatal), StoreError> {
    let fatal = Fatal::default();
    let options = options(&data_dir(), WriterMode::Task);
    Ok((LogStore::open(Arc::new(disk), options, fatal.clone())?, fatal))
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new_committed(term, term % 3 + 1), index }
}

pub(crate) fn proposal(term: u64, index: u64, bytes: Vec<u8>) -> Entry {
    let payload = EntryPayload::Normal(Proposal(Bytes::from(bytes)));
    Entry { log_id: log_id(term, index), payload }
}

fn membership(id: u64) -> Membership {
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let member = Member { name: "n".to_owned(), api: at(1), http: at(2), dns: at(3), peer: at(4) };
    Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)])).unwrap()
}

/// Everything a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
}

impl Model {
    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(1, |last| last.index + 1)
    }

    /// Reads everything back.
    pub(crate) async fn of(log: &mut LogStore) -> io::Result<Self> {
        let state = log.get_log_state().await?;
        let mut reader = log.get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await?;
        let found = Self {
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            purged: state.last_purged_log_id,
            vote: reader.read_vote().await?,
            committed: log.read_committed().await?,
        };
        assert_eq!(found.last(), state.last_log_id, "last log id and last entry differ");
        Ok(found)
    }

    /// A short form for messages.
    fn sketch(&self) -> String {
        let range = (self.entries.keys().next(), self.entries.keys().next_back());
        format!("{range:?} purged {:?} vote {:?} {:?}", self.purged, self.vote, self.committed)
    }
}

/// What was done to a log: its state after each step that was begun, and the last step that was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct History {
    states: Vec<Model>,
    acknowledged: usize,
    pub(crate) failed: bool,
}

impl History {
    pub(crate) fn new(start: Model) -> Self {
        Self { states: vec![start], acknowledged: 0, failed: false }
    }

    fn now(&self) -> Model {
        self.states.last().unwrap().clone()
    }

    fn began(&mut self, model: Model) -> usize {
        self.states.push(model);
        self.states.len() - 1
    }

    fn answered(&mut self, step: usize, result: io::Result<()>) {
        match result {
            Ok(()) => {
                assert!(!self.failed, "step {step} was acknowledged after a failure");
                self.acknowledged = self.acknowledged.max(step);
            }
            Err(_) => self.failed = true,
        }
    }

    pub(crate) fn acknowledged(&self) -> &Model {
        &self.states[self.acknowledged]
    }

    /// Whether `found` is what was acknowledged, or that and the beginning of what was under way.
    pub(crate) fn check(&self, found: &Model) -> Result<(), String> {
        let possible = &self.states[self.acknowledged..];
        let same = |state: &Model| {
            (&state.entries, state.purged, state.vote) == (&found.entries, found.purged, found.vote)
        };
        if !possible.iter().any(same) {
            return Err(format!(
                "found {}, acknowledged was {}, under way were {} steps",
                found.sketch(),
                self.acknowledged().sketch(),
                possible.len() - 1
            ));
        }
        // Rides on later commits: any of the values handed over since the acknowledged step.
        if !possible.iter().any(|state| state.committed == found.committed) {
            return Err(format!("committed is {:?}", found.committed));
        }
        Ok(())
    }
}

/// Tells when an append is durable.
type Answer = openraft::type_config::alias::OneshotReceiverOf<TypeConfig, io::Result<()>>;

/// Queues an append and returns what its callback will tell.
pub(crate) async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<Answer> {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    Ok(receiver)
}

/// Appends and waits until it is durable.
pub(crate) async fn append_durably(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    append(log, entries).await?.await.map_err(|_| io::Error::other("callback was dropped"))?
}

/// Runs `steps` random steps, going on after a failure to see that nothing is acknowledged any more.
pub(crate) async fn run(log: &mut LogStore, history: &mut History, seed: u64, steps: usize) {
    let term = history.now().last().map_or(1, |last| last.leader_id.term);
    let rng = SmallRng::seed_from_u64(seed);
    let mut workload = Workload { log, history, rng, term, pending: Vec::new() };
    for _ in 0..steps {
        match workload.rng.random_range(0..20) {
            0..=11 => workload.append().await,
            12 | 13 => workload.vote().await,
            14 | 15 => workload.truncate().await,
            16 => workload.purge().await,
            17 => workload.commit().await,
            18 => workload.settle().await,
            _ => workload.compare().await,
        }
    }
    workload.settle().await;
}

struct Workload<'a> {
    log: &'a mut LogStore,
    history: &'a mut History,
    rng: SmallRng,
    term: u64,
    /// Steps whose answers are awaited.
    pending: Vec<(usize, Answer)>,
}

impl Workload<'_> {
    async fn append(&mut self) {
        let mut model = self.history.now();
        let next = model.next();
        for index in next..next + self.rng.random_range(1..6) {
            model.entries.insert(index, random_entry(&mut self.rng, self.term, index));
        }
        let entries = model.entries.range(next..).map(|(_, entry)| entry.clone()).collect();
        match append(self.log, entries).await {
            Ok(receiver) => self.pending.push((self.history.began(model), receiver)),
            Err(_) => self.history.failed = true,
        }
    }

    async fn vote(&mut self) {
        let mut model = self.history.now();
        self.term += 1;
        let vote = Vote::new(self.term, self.rng.random_range(1..4));
        model.vote = Some(vote);
        let step = self.history.began(model);
        let result = self.log.save_vote(&vote).await;
        self.settle().await;
        self.history.answered(step, result);
    }

    async fn truncate(&mut self) {
        let mut model = self.history.now();
        let keep = model.purged.map_or(0, |id| id.index).max(model.next().saturating_sub(6));
        let after = model.entries.get(&keep).map(|entry| entry.log_id).or(model.purged);
        let end = after.map_or(0, |id| id.index);
        model.entries.retain(|index, _| *index <= end);
        self.term += 1;
        let step = self.history.began(model);
        let result = self.log.truncate_after(after).await;
        self.settle().await;
        self.history.answered(step, result);
    }

    /// Now and then past the end, as after the installation of a snapshot.
    async fn purge(&mut self) {
        let mut model = self.history.now();
        let next = model.next();
        let past = self.rng.random_range(0..8) == 0;
        let first = model.entries.keys().next().copied().unwrap_or(next);
        let index = if past { next + 5 } else { (first + 7).min(next - 1) };
        if index == 0 || model.purged.is_some_and(|purged| purged.index >= index) {
            return;
        }
        let entry = model.entries.get(&index);
        let upto = entry.map_or_else(|| log_id(self.term, index), |entry| entry.log_id);
        model.entries.retain(|at, _| *at > index);
        model.purged = Some(upto);
        let result = self.log.purge(upto).await;
        self.unanswered(model, result);
    }

    async fn commit(&mut self) {
        let mut model = self.history.now();
        model.committed = model.last();
        let result = self.log.save_committed(model.committed).await;
        self.unanswered(model, result);
    }

    fn unanswered(&mut self, model: Model, result: io::Result<()>) {
        match result {
            Ok(()) => drop(self.history.began(model)),
            Err(_) => self.history.failed = true,
        }
    }

    async fn settle(&mut self) {
        for (step, receiver) in self.pending.drain(..) {
            let result = receiver.await.unwrap_or_else(|_| panic!("callback was dropped"));
            self.history.answered(step, result);
        }
    }

    /// What is read is what was appended, durable or not.
    async fn compare(&mut self) {
        if self.history.failed {
            return;
        }
        match Model::of(self.log).await {
            Ok(found) => assert_eq!(found, self.history.now()),
            // The fault struck while answers were still awaited.
            Err(_) => self.history.failed = true,
        }
    }
}

fn random_entry(rng: &mut SmallRng, term: u64, index: u64) -> Entry {
    let payload = match rng.random_range(0..40) {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Membership(membership(rng.next_u64())),
        2 => filled(rng, 300_000),
        _ => {
            let bytes = rng.random_range(0..1500);
            filled(rng, bytes)
        }
    };
    Entry { log_id: log_id(term, index), payload }
}

fn filled(rng: &mut SmallRng, bytes: usize) -> EntryPayload {
    let mut content = vec![0; bytes];
    rng.fill_bytes(&mut content);
    EntryPayload::Normal(Proposal(Bytes::from(content)))
}
