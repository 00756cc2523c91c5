//! The durable Raft log: entries, vote, committed index, behind openraft's storage traits. One writer, one
//! durable transaction per group commit (`writer`), on redb (`file`), with the newest entries in memory
//! (`tail`). Appending returns once the entries can be read; openraft is told when they are durable. The first
//! write or fsync error is final: it goes to [`Fatal`], and the node exits before it acknowledges anything.

mod device;
mod file;
#[cfg(test)]
mod suite;
mod tail;
mod writer;

use std::fmt;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures_util::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::file::{Change, Found, LogFile};
use self::tail::Tail;
use self::writer::{Command, LogWriter, Order, Waiter};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::disk::{self, Disk, StoreError};
use crate::host::WriterMode;

/// Commands that may wait for the writer; then callers wait.
const QUEUE_COMMANDS: usize = 4096;
/// Bytes of entries that may wait for the writer; then callers wait. One larger batch may pass alone.
const QUEUE_BYTES: u32 = 64 << 20;
/// A read for replication ends after this many bytes of entries (but has one at least), so that a message
/// between nodes stays below its limit.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// How many bytes of entries are kept in memory by default, beyond those that are not durable yet.
pub const TAIL_BYTES_DEFAULT: usize = 8 << 20;

/// How to open the log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The data directory. It exists, and this process holds its lock.
    pub dir: PathBuf,
    /// The node whose log it is.
    pub node_id: u64,
    /// The cluster of the node, where it knows it.
    pub cluster_id: Option<u128>,
    /// Whether the node has had a log before: then a missing one is refused, not made anew.
    pub must_exist: bool,
    /// Where the writer runs.
    pub writer: WriterMode,
    /// Bytes of durable entries kept in memory.
    pub tail_bytes_max: usize,
}

/// The first error that ends the node, told to whoever watches; then the process exits with code 70.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<watch::Sender<Option<String>>>);

impl Default for Fatal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Fatal {
    /// Reports an error; only the first one counts.
    pub fn report(&self, reason: &str) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }

    /// The error, if there was one.
    pub fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until there is one. Cancel-safe.
    pub async fn wait(&self) -> String {
        let mut errors = self.0.subscribe();
        loop {
            if let Some(error) = errors.borrow_and_update().clone() {
                return error;
            }
            if errors.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Counts of a log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Durable transactions.
    pub commits: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Length of the log file in bytes.
    pub file_bytes: u64,
}

/// What the store, its readers and the writer share.
#[derive(Debug)]
struct Shared {
    tail: Mutex<Tail>,
    /// `None` once closed.
    file: RwLock<Option<LogFile>>,
    fatal: Fatal,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    mode: WriterMode,
    nearly_full: AtomicBool,
    commits: AtomicU64,
    entries: AtomicU64,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_file<T>(
        &self,
        action: impl FnOnce(&LogFile) -> Result<T, String>,
    ) -> Result<T, String> {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map_or_else(|| Err("the raft log was closed".to_owned()), action)
    }

    /// Notes that everything up to `position` is durable.
    fn queue_done(&self, position: u64) {
        self.tail().durable(position);
    }

    /// Notes what a commit has made durable.
    fn committed(&self, changes: &[Change]) {
        let mut entries = 0;
        let mut tail = self.tail();
        for change in changes {
            match change {
                Change::Vote(vote) => tail.vote = Some(*vote),
                Change::Append(appended) => entries += appended.len() as u64,
                Change::Truncate(_)
                | Change::Purge(_)
                | Change::Committed(_)
                | Change::Cluster(_) => {}
            }
        }
        drop(tail);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        let full = disk::is_nearly_full(&*self.disk, &self.dir);
        self.nearly_full.store(full, Ordering::Relaxed);
    }

    fn close(&self) {
        let file = self.file.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(file) = file {
            file.close();
        }
    }

    /// Reads a range, of which the part that is not in memory comes from the file.
    async fn read(self: &Arc<Self>, range: Range<u64>, max: usize) -> io::Result<Vec<Entry>> {
        let (view, cold, warm) = {
            let tail = self.tail();
            let (cold, warm) = tail.split(range);
            if cold.is_empty() {
                return Ok(tail.cached(warm, max));
            }
            // The view is taken under the lock: a truncation cannot come between it and the split.
            let view = self.with_file(|file| file.begin_read().map_err(|e| e.to_string()));
            (view.map_err(io::Error::other)?, cold, tail.cached(warm, max))
        };
        let (start, expected) = (cold.start, cold.end - cold.start);
        let read = move || file::read_entries(&view, cold, max);
        let found = match self.mode {
            WriterMode::Thread => {
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
            WriterMode::Task => read(),
        };
        let found = found.and_then(|found| {
            let begins = found.first().is_some_and(|entry| entry.log_id.index == start);
            let ends = found.len() as u64 == expected || max != usize::MAX;
            let hole = || format!("entries {start} to {} are not all there", start + expected - 1);
            if begins && ends { Ok(found) } else { Err(hole()) }
        });
        let mut found = found.map_err(|reason| {
            self.fatal.report(&reason);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        if found.len() as u64 == expected {
            let mut bytes: usize = found.iter().map(Tail::entry_bytes).sum();
            for entry in warm {
                bytes = bytes.saturating_add(Tail::entry_bytes(&entry));
                if bytes > max {
                    break;
                }
                found.push(entry);
            }
        }
        Ok(found)
    }
}

/// The durable log of one node. Clones are handles to the same log; give one to openraft.
///
/// Dropping all of them is a crash: what is queued may still be written, but the file is not closed in order,
/// as [`LogStore::close`] does.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// The position of the last queued command.
    queued: Arc<Mutex<u64>>,
    bytes: Arc<Semaphore>,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log and checks all of it; makes a new one where there is none and there may be none.
    /// Blocks. With [`WriterMode::Task`], call it within a runtime.
    ///
    /// # Errors
    /// [`StoreError`]: a damaged, foreign, newer or missing log, or what the disk said.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        fatal: Fatal,
    ) -> Result<Self, StoreError> {
        let LogOptions { dir, node_id, cluster_id, must_exist, writer, tail_bytes_max } = options;
        let path = dir.join(file::LOG_FILE);
        if !LogFile::exists(&*disk, &dir)? {
            if must_exist {
                return Err(StoreError::Missing { path });
            }
            LogFile::create(&*disk, &dir, node_id)?;
        }
        let mut tail = Tail::new(tail_bytes_max);
        let (file, found) = LogFile::open(&*disk, &dir, node_id, &mut tail)?;
        let Found { commit, cluster_id: stored } = found;
        if let (Some(stored), Some(own)) = (stored, cluster_id)
            && stored != own
        {
            return Err(StoreError::Foreign {
                path,
                found: format!("cluster {stored:032x}"),
                expected: format!("cluster {own:032x}"),
            });
        }
        let purged = tail.purged();
        let nearly_full = AtomicBool::new(disk::is_nearly_full(&*disk, &dir));
        let (commands, receiver) = mpsc::channel(QUEUE_COMMANDS);
        let shared = Arc::new(Shared {
            tail: Mutex::new(tail),
            file: RwLock::new(Some(file)),
            fatal,
            disk,
            dir,
            mode: writer,
            nearly_full,
            commits: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        });
        LogWriter::start(writer, Arc::clone(&shared), receiver, commit, purged)
            .map_err(|e| StoreError::io("start the writer of", &path, e))?;
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        let mut queued = 0;
        if let (None, Some(own)) = (stored, cluster_id) {
            // The node died between storing its cluster in the identity and storing it here.
            let order = Order::Change(Change::Cluster(own));
            let command = Command { position: 1, order, waiter: Waiter::Nobody };
            if commands.try_send(command).is_ok() {
                queued = 1;
            }
        }
        Ok(Self { shared, commands, queued: Arc::new(Mutex::new(queued)), bytes })
    }

    /// Stores the cluster that the node belongs to, durably. Call it before the first entry of that cluster.
    ///
    /// # Errors
    /// What the disk said; the log is dead then.
    pub async fn set_cluster_id(&self, cluster_id: u128) -> io::Result<()> {
        self.write(Change::Cluster(cluster_id), |_| {}).await
    }

    /// Whether less than [`disk::NEARLY_FULL_BYTES`] are free: refuse writes, serve reads. Free of charge
    /// while there is space; asks the disk while there is none, so that the node resumes by itself.
    pub fn is_nearly_full(&self) -> bool {
        let flag = &self.shared.nearly_full;
        if flag.load(Ordering::Relaxed) {
            flag.store(
                disk::is_nearly_full(&*self.shared.disk, &self.shared.dir),
                Ordering::Relaxed,
            );
        }
        flag.load(Ordering::Relaxed)
    }

    /// Counts since the log was opened.
    pub fn stats(&self) -> LogStats {
        LogStats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            entries: self.shared.entries.load(Ordering::Relaxed),
            file_bytes: self.shared.with_file(|file| Ok(file.bytes())).unwrap_or_default(),
        }
    }

    /// Writes what is queued, and closes the file in order. Later calls on any handle fail.
    ///
    /// # Errors
    /// What the disk said.
    pub async fn close(&self) -> io::Result<()> {
        self.call(Order::Close, |_| {}).await
    }

    /// Queues a change and waits until it is durable.
    async fn write(&self, change: Change, note: impl FnOnce(&mut Tail)) -> io::Result<()> {
        self.call(Order::Change(change), note).await
    }

    async fn call(&self, order: Order, note: impl FnOnce(&mut Tail)) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.queue(order, Waiter::Caller(sender), |tail, _| {
            note(tail);
            Ok(())
        })
        .await?;
        done.await.map_err(|_| stopped())?
    }

    /// Queues a command; `note` changes the memory at the same moment, given the command's position.
    async fn queue(
        &self,
        order: Order,
        waiter: Waiter,
        note: impl FnOnce(&mut Tail, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(reason) = self.shared.fatal.get() {
            return Err(io::Error::other(reason));
        }
        let slot = self.commands.reserve().await.map_err(|_| stopped())?;
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let position = *queued + 1;
        note(&mut self.shared.tail(), position)?;
        *queued = position;
        slot.send(Command { position, order, waiter });
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the writer of the raft log has stopped")
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.shared.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write(Change::Vote(*vote), |_| {}).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(id) = committed else { return Ok(()) };
        self.queue(Order::Committed(id), Waiter::Nobody, |tail, _| {
            tail.committed = Some(id);
            Ok(())
        })
        .await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes: usize = entries.iter().map(Tail::entry_bytes).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        let permit = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let permit = permit.map_err(|_| stopped())?;
        let in_memory = entries.clone();
        let waiter = Waiter::Append(callback, permit);
        self.queue(Order::Change(Change::Append(entries)), waiter, |tail, position| {
            for entry in in_memory {
                tail.push(entry, position).map_err(io::Error::other)?;
            }
            Ok(())
        })
        .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let change = Change::Truncate(last.map(|id| id.index));
        self.write(change, |tail| tail.truncate(last)).await
    }

    /// Does not wait: a purge that is lost in a crash costs space, nothing else.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if self.shared.tail().purged().is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        self.queue(Order::Change(Change::Purge(upto)), Waiter::Nobody, |tail, _| {
            tail.purge(upto);
            Ok(())
        })
        .await
    }
}

/// Reads the log beside its writer: everything that was appended, durable or not.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        self.shared.read(bounds(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.shared.read(start..end, READ_BYTES_MAX).await
    }

    /// Reads in pieces: a long catch-up never holds the whole range.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let state = (Arc::clone(&self.shared), bounds(&range));
        stream::unfold(state, |(shared, range)| async move {
            if range.is_empty() {
                return None;
            }
            let piece = shared.read(range.clone(), READ_BYTES_MAX).await;
            let next = match &piece {
                Ok(entries) => entries.last().map_or(range.end, |last| last.log_id.index + 1),
                Err(_) => range.end,
            };
            let items = match piece {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((stream::iter(items), (shared, next..range.end)))
        })
        .flatten()
    }
}
