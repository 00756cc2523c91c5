//! Snapshots on disk: which one is current, writing one while the state moves on, receiving one in parts,
//! reading parts back. What the parts mean is the state machine's business. A snapshot appears under its name
//! only when it is complete and durable. All calls block: call them from a blocking thread.

mod format;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::format::PartWriter;
pub use self::format::SnapshotParts;
use super::types::{LogId, SnapshotMeta};
use crate::disk::{self, Disk, DiskFile, OpenMode, StoreError};

/// The most that one part holds: 1 MiB.
pub const PART_BYTES_MAX: usize = 1 << 20;

const SUFFIX: &str = ".snapshot";
const NEW_SUFFIX: &str = ".snapshot.new";

/// What sender and receiver compare: equal totals are equal snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTotals {
    /// Number of parts.
    pub parts: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// xxh3-128 over header and parts.
    pub digest: u128,
}

/// What a snapshot file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Format version of the file.
    pub version: u32,
    /// The cluster whose state it is.
    pub cluster_id: u128,
    /// The epoch of that state.
    pub epoch: u64,
    /// The last entry it contains, and the membership.
    pub meta: SnapshotMeta,
    /// Parts, bytes, digest.
    pub totals: SnapshotTotals,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// Reads and verifies all of the snapshot file at `path`.
///
/// # Errors
/// The damage with file, offset and reason; a newer format; what the disk said.
pub fn inspect(disk: &dyn Disk, path: &Path) -> Result<SnapshotInfo, StoreError> {
    let file = disk.open(path, OpenMode::Read).map_err(|e| StoreError::io("open", path, e))?;
    format::verify(&*file, path)
}

/// A complete, verified snapshot. It stays readable when a newer one replaces it. Clones share it.
#[derive(Clone, Debug)]
pub struct SnapshotHandle(Arc<Stored>);

#[derive(Debug)]
struct Stored {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    info: SnapshotInfo,
    /// Under a temporary name still, where it is removed with its last handle.
    staged: AtomicBool,
}

impl Drop for Stored {
    fn drop(&mut self) {
        if self.staged.load(Ordering::Acquire) {
            // What stays is removed at the next start.
            drop(self.disk.remove(&self.path));
        }
    }
}

impl SnapshotHandle {
    /// What it covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.info.meta
    }

    /// Everything it says about itself.
    pub fn info(&self) -> &SnapshotInfo {
        &self.0.info
    }

    /// Raw bytes of the file from `offset`, at most 1 MiB, for export; empty at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let left = self.0.info.file_bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PART_BYTES_MAX);
        let mut bytes = vec![0; length];
        self.0.file.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Its parts from the beginning.
    pub fn parts(&self) -> SnapshotParts {
        let stored = &self.0;
        SnapshotParts::new(Arc::clone(&stored.file), stored.path.clone(), &stored.info)
    }
}

/// The snapshots of one data directory. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub struct SnapshotStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster_id: Mutex<Option<u128>>,
    current: Mutex<Option<SnapshotHandle>>,
    /// Numbers temporary names.
    begun: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SnapshotStore {
    /// Opens the snapshots in `dir`: removes what was left half-done, verifies the newest one and removes the
    /// others. `cluster_id` is `None` while the node belongs to no cluster.
    ///
    /// # Errors
    /// The newest snapshot is damaged, newer or of another cluster (an older one is never used instead: the
    /// log that would complete it may be gone), or what the disk said.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        cluster_id: Option<u128>,
    ) -> Result<Self, StoreError> {
        let mut names = disk.list(dir).map_err(|e| StoreError::io("list", dir, e))?;
        let remove = |name: &str| {
            let path = dir.join(name);
            disk.remove(&path).map_err(|e| StoreError::io("remove", &path, e))
        };
        for name in names.iter().filter(|name| name.ends_with(NEW_SUFFIX)) {
            remove(name)?;
        }
        // Names sort as log indexes do.
        names.retain(|name| name.ends_with(SUFFIX));
        let newest = names.pop();
        let current = match newest {
            None => None,
            Some(name) => Some(open_file(&disk, dir.join(name), cluster_id)?),
        };
        for name in &names {
            remove(name)?;
        }
        Ok(Self(Arc::new(Store {
            disk,
            dir: dir.to_owned(),
            cluster_id: Mutex::new(cluster_id),
            current: Mutex::new(current),
            begun: AtomicU64::new(0),
        })))
    }

    /// Tells the cluster once the node has bootstrapped or joined it; nothing can be written before.
    pub fn set_cluster_id(&self, cluster_id: u128) {
        *lock(&self.0.cluster_id) = Some(cluster_id);
    }

    /// The current snapshot.
    pub fn latest(&self) -> Option<SnapshotHandle> {
        lock(&self.0.current).clone()
    }

    /// Writes a snapshot and makes it current, unless a newer one is. Parts have 1 to [`PART_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// What the disk said; nothing of it stays then, and the current snapshot is the old one.
    pub fn write<P: AsRef<[u8]>>(
        &self,
        meta: &SnapshotMeta,
        epoch: u64,
        parts: impl IntoIterator<Item = P>,
    ) -> Result<SnapshotHandle, StoreError> {
        let mut receiver = self.begin_receive(meta, epoch)?;
        for part in parts {
            receiver.part(part.as_ref())?;
        }
        let handle = receiver.stage()?;
        self.install(&handle)?;
        Ok(handle)
    }

    /// Begins to receive a snapshot that another node sends.
    ///
    /// # Errors
    /// The node belongs to no cluster yet, or what the disk said.
    pub fn begin_receive(
        &self,
        meta: &SnapshotMeta,
        epoch: u64,
    ) -> Result<SnapshotReceiver, StoreError> {
        let store = &self.0;
        let number = store.begun.fetch_add(1, Ordering::Relaxed);
        let path = store.dir.join(format!("{number}{NEW_SUFFIX}"));
        let Some(cluster_id) = *lock(&store.cluster_id) else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the node has no cluster yet");
            return Err(StoreError::io("create", &path, error));
        };
        let file = store.disk.open(&path, OpenMode::Create);
        let file = file.map_err(|e| StoreError::io("create", &path, e))?;
        let temporary = Temporary { disk: Arc::clone(&store.disk), path: Some(path.clone()) };
        let writer = PartWriter::begin(file, &path, cluster_id, epoch, meta)?;
        Ok(SnapshotReceiver { dir: store.dir.clone(), writer, temporary })
    }

    /// Makes a received snapshot the current one: renamed, directory fsynced, the old one removed. Does nothing
    /// for one that is current already, and for one that is older than the current one.
    ///
    /// # Errors
    /// What the disk said: stop the node then.
    pub fn install(&self, handle: &SnapshotHandle) -> Result<(), StoreError> {
        let store = &self.0;
        let stored = &handle.0;
        let mut current = lock(&store.current);
        let covers = |handle: &SnapshotHandle| handle.meta().last_log_id.map(|id| id.index);
        let is_older = current.as_ref().is_some_and(|current| covers(current) > covers(handle));
        if is_older || !stored.staged.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = store.dir.join(file_name(stored.info.meta.last_log_id));
        let renamed = store.disk.rename(&stored.path, &path);
        renamed.map_err(|e| StoreError::io("rename", &stored.path, e))?;
        stored.staged.store(false, Ordering::Release);
        store.disk.sync_dir(&store.dir).map_err(|e| StoreError::io("fsync", &store.dir, e))?;
        let installed = SnapshotHandle(Arc::new(Stored {
            disk: Arc::clone(&store.disk),
            path: path.clone(),
            file: Arc::clone(&stored.file),
            info: stored.info.clone(),
            staged: AtomicBool::new(false),
        }));
        let old = current.replace(installed).filter(|old| old.0.path != path);
        if let Some(old) = old
            && let Err(error) = store.disk.remove(&old.0.path)
        {
            // The next start tries again.
            tracing::warn!(path = %old.0.path.display(), %error, "cannot remove an old snapshot");
        }
        Ok(())
    }
}

/// Sorts as the index does; the term tells two apart that cover the same index.
fn file_name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}{SUFFIX}")
}

fn open_file(
    disk: &Arc<dyn Disk>,
    path: PathBuf,
    cluster_id: Option<u128>,
) -> Result<SnapshotHandle, StoreError> {
    let file = disk.open(&path, OpenMode::Read).map_err(|e| StoreError::io("open", &path, e))?;
    let info = format::verify(&*file, &path)?;
    if cluster_id != Some(info.cluster_id) {
        let expected =
            cluster_id.map_or_else(|| "no cluster".to_owned(), |id| format!("cluster {id:032x}"));
        let found = format!("cluster {:032x}", info.cluster_id);
        return Err(StoreError::Foreign { path, found, expected });
    }
    let (disk, file) = (Arc::clone(disk), Arc::from(file));
    let staged = AtomicBool::new(false);
    Ok(SnapshotHandle(Arc::new(Stored { disk, path, file, info, staged })))
}

/// A file under a temporary name, removed unless it is kept.
#[derive(Debug)]
struct Temporary {
    disk: Arc<dyn Disk>,
    path: Option<PathBuf>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // What stays is removed at the next start.
            drop(self.disk.remove(&path));
        }
    }
}

/// A snapshot on its way in. Dropping it gives it up.
#[derive(Debug)]
pub struct SnapshotReceiver {
    dir: PathBuf,
    writer: PartWriter,
    temporary: Temporary,
}

impl SnapshotReceiver {
    /// Adds the next part.
    ///
    /// # Errors
    /// A part that is empty or too long; a disk that is nearly full (the log needs what is left); what the disk
    /// said.
    pub fn part(&mut self, content: &[u8]) -> Result<(), StoreError> {
        if disk::is_nearly_full(&*self.temporary.disk, &self.dir) {
            let error = io::Error::new(io::ErrorKind::StorageFull, "the disk is nearly full");
            return Err(StoreError::io("write a snapshot in", &self.dir, error));
        }
        self.writer.part(content)
    }

    /// Ends and makes the snapshot durable, under a temporary name: [`SnapshotStore::install`] makes it current.
    ///
    /// # Errors
    /// What was received is not what was sent; what the disk said.
    pub fn finish(self, sent: SnapshotTotals) -> Result<SnapshotHandle, StoreError> {
        let handle = self.stage()?;
        let received = handle.info().totals;
        if received != sent {
            let reason = format!("received {received:?}, sent was {sent:?}");
            return Err(StoreError::damaged(&handle.0.path, "the end", reason));
        }
        // What a reader will find is what counts.
        format::verify(&*handle.0.file, &handle.0.path)?;
        Ok(handle)
    }

    fn stage(self) -> Result<SnapshotHandle, StoreError> {
        let Self { writer, mut temporary, .. } = self;
        let (info, file) = writer.finish()?;
        let path = temporary.path.take().unwrap_or_default();
        let (disk, staged) = (Arc::clone(&temporary.disk), AtomicBool::new(true));
        Ok(SnapshotHandle(Arc::new(Stored { disk, path, file, info, staged })))
    }
}
