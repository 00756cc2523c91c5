//! openraft's own conformance suite, run over this log with both kinds of writer.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, StorageError};
use tempfile::TempDir;

use super::{Fatal, LogOptions, LogStore, TAIL_BYTES_DEFAULT};
use crate::disk::StdDisk;
use crate::host::WriterMode;
use crate::raft::types::{LogId, Member, SnapshotMeta, StoredMembership, TypeConfig};

type EntryResponder = openraft::storage::EntryResponder<TypeConfig>;
type MemorySnapshot = openraft::alias::SnapshotOf<TypeConfig, ()>;

// The suite makes up members.
impl Default for Member {
    fn default() -> Self {
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        Self { name: String::new(), api: nowhere, http: nowhere, dns: nowhere, peer: nowhere }
    }
}

/// A state machine that remembers where it is, and nothing else.
#[derive(Clone, Debug, Default)]
struct Memory {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<std::sync::Mutex<Option<SnapshotMeta>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Memory {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<MemorySnapshot> {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Memory {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, _) = next?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(m) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), m);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<MemorySnapshot>> {
        let meta = self.snapshot.lock().unwrap().clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder {
    writer: WriterMode,
    tail_bytes_max: usize,
}

impl StoreBuilder<TypeConfig, LogStore, Memory, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Memory), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            dir: dir.path().to_owned(),
            node_id: 1,
            cluster_id: None,
            must_exist: false,
            writer: self.writer,
            tail_bytes_max: self.tail_bytes_max,
        };
        let log = LogStore::open(Arc::new(StdDisk), options, Fatal::default()).unwrap();
        Ok((dir, log, Memory::default()))
    }
}

#[tokio::test]
async fn the_log_conforms_with_its_writer_on_a_thread() {
    let builder = Builder { writer: WriterMode::Thread, tail_bytes_max: TAIL_BYTES_DEFAULT };
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn the_log_conforms_with_its_writer_as_a_task() {
    let builder = Builder { writer: WriterMode::Task, tail_bytes_max: TAIL_BYTES_DEFAULT };
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn the_log_conforms_with_nothing_kept_in_memory() {
    let builder = Builder { writer: WriterMode::Thread, tail_bytes_max: 0 };
    Suite::test_all(builder).await.unwrap();
}
