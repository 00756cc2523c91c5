//! openraft's state machine around [`State`]: applies what is committed, in batches, and publishes each batch
//! once, before anyone who waits for it is answered. The state lives in memory; a snapshot is a clone of it,
//! which costs a few pointers, written to disk while entries go on being applied.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use rollcall_core::State;
use rollcall_core::record::Event;
use rollcall_proto::stored;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::load::load_state;
use super::log::Fatal;
use super::snapshot::{SnapshotHandle, SnapshotStore};
use super::transfer::{Snapshot, SnapshotData};
use super::types::{Entry, EntryPayload, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::host::Host;

/// How often a snapshot that found the disk full looks for space.
const SPACE_PAUSE: Duration = Duration::from_secs(10);

/// What readers get after each batch.
#[derive(Clone, Debug)]
pub struct Published {
    /// The state after the batch.
    pub state: State,
    /// Index of the last applied entry; 0 where there is none.
    pub applied_index: u64,
    /// The visible changes of the batch, in order.
    pub changes: Vec<Arc<Event>>,
    /// The state was loaded as a whole (start, snapshot of the leader): `changes` do not tell how it came about.
    pub restored: bool,
}

/// Takes what was applied to the readers. It must not block for long: it runs between apply and the answers.
pub type Publisher = Arc<dyn Fn(Published) + Send + Sync>;

/// Where the machine puts what it has applied.
pub(crate) struct Output {
    publisher: Publisher,
    /// While the node starts, nothing is published: the last state is kept here. `None`: published at once.
    starting: Mutex<Option<Option<Published>>>,
    applied: watch::Sender<Option<LogId>>,
}

impl Output {
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self { publisher, starting: Mutex::new(Some(None)), applied: watch::Sender::new(None) }
    }

    /// The last applied entry, announced after it was published.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.borrow().map_or(0, |last| last.index)
    }

    /// Publishes what was loaded from disk, and from now on every batch.
    pub(crate) fn go_live(&self) {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(loaded)) = starting.take() {
            (self.publisher)(Published { changes: Vec::new(), restored: true, ..loaded });
        }
    }

    fn publish(&self, published: Published, last: Option<LogId>) {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        match starting.as_mut() {
            Some(latest) => *latest = Some(published),
            None => (self.publisher)(published),
        }
        drop(starting);
        self.applied.send_replace(last);
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("applied", &*self.applied.borrow()).finish_non_exhaustive()
    }
}

/// The state machine of one node.
#[derive(Debug)]
pub struct Machine {
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    journal_events: usize,
    host: Host,
    snapshots: SnapshotStore,
    output: Arc<Output>,
    fatal: Fatal,
    stop: CancellationToken,
}

impl Machine {
    pub(crate) fn new(
        journal_events: usize,
        host: Host,
        snapshots: SnapshotStore,
        output: Arc<Output>,
        fatal: Fatal,
        stop: CancellationToken,
    ) -> Self {
        let machine = Self {
            state: State::new(journal_events),
            last_applied: None,
            membership: StoredMembership::default(),
            journal_events,
            host,
            snapshots,
            output,
            fatal,
            stop,
        };
        machine.publish(Vec::new(), true);
        machine
    }

    fn publish(&self, changes: Vec<Arc<Event>>, restored: bool) {
        let applied_index = self.last_applied.map_or(0, |last| last.index);
        let state = self.state.clone();
        let published = Published { state, applied_index, changes, restored };
        self.output.publish(published, self.last_applied);
    }

    fn apply_entry(
        &mut self,
        entry: Entry,
        changes: &mut Vec<Arc<Event>>,
    ) -> Result<Reply, io::Error> {
        let log_id = entry.log_id;
        let reply = match entry.payload {
            EntryPayload::Blank => Reply(None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                Reply(None)
            }
            EntryPayload::Normal(proposal) => {
                // A command that this release does not know is never skipped: the states would differ.
                let stamped = stored::decode_command(&proposal.0).map_err(|error| {
                    self.fail(format!("entry {} of the raft log: {error}", log_id.index))
                })?;
                let applied = self.state.apply(&stamped);
                changes.extend(applied.events);
                Reply(Some(Arc::new(applied.outcome)))
            }
        };
        self.last_applied = Some(log_id);
        Ok(reply)
    }

    fn fail(&self, reason: String) -> io::Error {
        self.fatal.report(&reason);
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = self.apply_entry(entry, &mut changes)?;
            if let Some(responder) = responder {
                answers.push((responder, reply));
            }
        }
        // Whoever is answered must find the state that the answer speaks of.
        self.publish(changes, false);
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            host: self.host.clone(),
            snapshots: self.snapshots.clone(),
            stop: self.stop.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (store, journal_events) = (self.snapshots.clone(), self.journal_events);
        let mode = self.host.writer;
        let load = move || {
            // Loaded before it is made current: what cannot be understood must not replace what can.
            let state = load_state(&snapshot, journal_events, mode)?;
            store.install(&snapshot)?;
            Ok::<_, io::Error>(state)
        };
        let loaded = self.host.run_blocking(load).await;
        let loaded = loaded.unwrap_or_else(|| Err(io::Error::other("loading was cancelled")));
        let state = loaded.map_err(|error| self.fail(format!("install a snapshot: {error}")))?;
        self.state = state;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish(Vec::new(), true);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let latest = self.snapshots.latest();
        Ok(latest.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

/// Writes one snapshot: of the state as it was when the builder was made.
#[derive(Debug)]
pub struct Builder {
    state: State,
    meta: SnapshotMeta,
    host: Host,
    snapshots: SnapshotStore,
    stop: CancellationToken,
}

impl Builder {
    async fn write(&self) -> Result<SnapshotHandle, io::Error> {
        let (state, meta, store) = (self.state.clone(), self.meta.clone(), self.snapshots.clone());
        let write = move || {
            let epoch = u64::from(state.epoch());
            store.write(&meta, epoch, stored::state_parts(&state))
        };
        let written = self.host.run_blocking(write).await;
        Ok(written.ok_or_else(|| io::Error::other("writing was cancelled"))??)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        loop {
            match self.write().await {
                Ok(snapshot) => return Ok(Snapshot { meta: self.meta.clone(), snapshot }),
                // An error ends the node, and a full disk must not: the snapshot waits for space.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(%error, "the snapshot waits for space on the disk");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    return Err(io::Error::other("the node shuts down"));
                }
                () = tokio::time::sleep(SPACE_PAUSE) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt;
    use rollcall_core::{Command, Stamped};

    use super::super::types::{CommittedLeaderId, Proposal};
    use super::*;

    fn entry(index: u64, bytes: bytes::Bytes) -> Entry {
        let log_id = LogId::new(CommittedLeaderId::new_committed(1, 7), index);
        Entry { log_id, payload: EntryPayload::Normal(Proposal(bytes)) }
    }

    async fn apply(machine: &mut Machine, entries: Vec<Entry>) -> Result<(), io::Error> {
        machine.apply(futures_util::stream::iter(entries.into_iter().map(|e| Ok((e, None))))).await
    }

    #[tokio::test]
    async fn a_batch_is_published_once_and_an_unknown_command_stops_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let (host, fatal) = (Host::system(1), Fatal::default());
        let snapshots = SnapshotStore::open(Arc::clone(&host.disk), dir.path(), Some(7)).unwrap();
        let seen: Arc<Mutex<Vec<(u64, bool)>>> = Arc::default();
        let output = {
            let seen = Arc::clone(&seen);
            Arc::new(Output::new(Arc::new(move |published: Published| {
                seen.lock().unwrap().push((published.applied_index, published.restored));
            })))
        };
        let stop = CancellationToken::new();
        let mut machine =
            Machine::new(10, host, snapshots, Arc::clone(&output), fatal.clone(), stop);
        let command = Command::AdvanceTime;
        let command = stored::encode_command(&Stamped { wall_ms: 0, advance_ms: 1, command });
        let three = |from| (from..from + 3).map(|index| entry(index, command.clone())).collect();
        apply(&mut machine, three(1)).await.unwrap();
        assert!(seen.lock().unwrap().is_empty(), "nothing is shown before the node has started");
        output.go_live();
        apply(&mut machine, three(4)).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [(3, true), (6, false)]);
        assert_eq!((output.applied_index(), machine.state.cluster_ms()), (6, 6));

        let unknown = entry(7, bytes::Bytes::from_static(b"\xff from a later release"));
        apply(&mut machine, vec![unknown]).await.unwrap_err();
        let reason = fatal.get().expect("the node is told to stop");
        assert!(reason.contains("entry 7 of the raft log"), "{reason}");
        assert_eq!(output.applied_index(), 6, "it was not skipped");
    }
}
