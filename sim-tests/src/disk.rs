//! A disk in memory that can lose what was not synced, tear writes at 512-byte blocks, fail at a chosen
//! operation, and be damaged by hand. Seeded: the same calls give the same disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rollcall_registry::disk::{DirLock, Disk, DiskFile, OpenMode};

const BLOCK: usize = 512;

/// What fails, from which one of its kind on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine loses power at this operation (0 is the first): it and all later ones fail.
    PowerCut(u64),
    /// This fsync of a file or directory and all later ones fail with EIO; what they should have saved is lost.
    Sync(u64),
    /// This write or growth and all later ones fail with ENOSPC.
    Write(u64),
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What the process sees.
    seen: Vec<u8>,
    /// What is on the platter for sure.
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    /// The names after each change of a directory since its last fsync; the first one is durable.
    names_history: Vec<BTreeMap<PathBuf, u64>>,
    locks: BTreeSet<PathBuf>,
    fault: Option<Fault>,
    failed: bool,
    free_bytes: Option<u64>,
    sync_delay: Duration,
    lag: Duration,
    operations: u64,
    writes: u64,
    syncs: u64,
    after_failure: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        let disk = Self::default();
        disk.state().names_history.push(BTreeMap::new());
        disk
    }

    /// An empty disk with a fault ahead.
    pub fn failing(fault: Fault) -> Self {
        let disk = Self::new();
        disk.state().fault = Some(fault);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `fault` is counted from here.
    pub fn arm(&self, fault: Fault) {
        let mut state = self.state();
        (state.operations, state.writes, state.syncs) = (0, 0, 0);
        state.fault = Some(fault);
    }

    /// No fault is ahead any more, and there is space again.
    pub fn disarm(&self) {
        let mut state = self.state();
        state.free_bytes = None;
        if !state.failed {
            state.fault = None;
        }
    }

    /// Operations that change something: writes, resizes, fsyncs, creations, renames, removals.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Writes and growths.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Fsyncs of files and directories.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Whether the fault has struck.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Operations that reached a file after the fault had struck.
    pub fn operations_after_failure(&self) -> u64 {
        self.state().after_failure
    }

    /// What `free_bytes` answers from now on.
    pub fn set_free_bytes(&self, free: u64) {
        self.state().free_bytes = Some(free);
    }

    /// Makes each fsync take this long.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.state().sync_delay = delay;
    }

    /// What work in tasks waits before it reaches the disk.
    pub fn set_lag(&self, lag: Duration) {
        self.state().lag = lag;
    }

    /// What is on the disk for sure: the disk after a power cut that took everything that was not synced.
    pub fn synced(&self) -> Self {
        let state = self.state();
        let names = state.names_history.first().cloned().unwrap_or_default();
        let mut next = State { names: names.clone(), ..State::default() };
        for (id, inode) in &state.inodes {
            let (seen, synced) = (inode.synced.clone(), inode.synced.clone());
            next.inodes.insert(*id, Inode { seen, synced, unsynced: Vec::new() });
        }
        next.names_history.push(names);
        Self(Arc::new(Mutex::new(next)))
    }

    /// The disk as the next process finds it after the death of this one: everything written is there.
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        let mut next = State { names: state.names.clone(), ..State::default() };
        for (id, inode) in &state.inodes {
            let (seen, synced) = (inode.seen.clone(), inode.seen.clone());
            next.inodes.insert(*id, Inode { seen, synced, unsynced: Vec::new() });
        }
        next.names_history.push(next.names.clone());
        Self(Arc::new(Mutex::new(next)))
    }

    /// The disk after a power cut: what was not synced is there, lost, or torn, as `seed` wills.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let state = self.state();
        let reached = rng.random_range(0..state.names_history.len());
        let names = state.names_history[reached].clone();
        let mut next = State { names: names.clone(), ..State::default() };
        for (id, inode) in &state.inodes {
            let kept = survive(inode, &mut rng);
            let inode = Inode { seen: kept.clone(), synced: kept, unsynced: Vec::new() };
            next.inodes.insert(*id, inode);
        }
        next.names_history.push(names);
        Self(Arc::new(Mutex::new(next)))
    }

    /// The content of a file as the process sees it.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[&state.names[path]].seen.clone()
    }

    /// Replaces the content of a file behind the back of everybody.
    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.state();
        let id = state.names[path];
        let inode = Inode { seen: content.clone(), synced: content, unsynced: Vec::new() };
        state.inodes.insert(id, inode);
    }

    /// The files, in order.
    pub fn names(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }
}

/// The synced image with none, all or some blocks of what came after.
fn survive(inode: &Inode, rng: &mut SmallRng) -> Vec<u8> {
    let mut image = inode.synced.clone();
    let mood = rng.next_u32() % 3;
    for change in &inode.unsynced {
        match change {
            Unsynced::Len(len) if mood == 2 || mood == 1 && rng.next_u32().is_multiple_of(2) => {
                image.resize(*len, 0);
            }
            Unsynced::Len(_) => {}
            Unsynced::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    // Blocks of the disk, not of the write.
                    let until = ((offset + at) / BLOCK + 1) * BLOCK - offset;
                    let until = until.min(data.len());
                    if mood == 2 || mood == 1 && rng.next_u32().is_multiple_of(2) {
                        put(&mut image, offset + at, &data[at..until]);
                    }
                    at = until;
                }
            }
        }
    }
    image
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    image[offset..offset + data.len()].copy_from_slice(data);
}

/// The kinds of operation that are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Sync,
    Other,
}

impl State {
    /// Counts an operation, and fails it where the fault says so.
    fn count(&mut self, kind: Kind) -> io::Result<()> {
        let (operation, write, sync) = (self.operations, self.writes, self.syncs);
        self.operations += 1;
        self.writes += u64::from(kind == Kind::Write);
        self.syncs += u64::from(kind == Kind::Sync);
        self.after_failure += u64::from(self.failed);
        let error = match self.fault {
            Some(Fault::PowerCut(at)) if operation >= at => io::Error::other("the power is cut"),
            Some(Fault::Sync(at)) if kind == Kind::Sync && sync >= at => {
                io::Error::from_raw_os_error(5)
            }
            Some(Fault::Write(at)) if kind == Kind::Write && write >= at => {
                io::Error::from_raw_os_error(28)
            }
            _ => return Ok(()),
        };
        self.failed = true;
        Err(error)
    }

    fn rename_noted(&mut self) {
        let names = self.names.clone();
        self.names_history.push(names);
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    id: u64,
}

impl MemFile {
    fn with<T>(&self, action: impl FnOnce(&mut Inode) -> T) -> T {
        action(self.disk.state().inodes.get_mut(&self.id).expect("an open file has its inode"))
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.with(|inode| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let range = start..start.saturating_add(buf.len());
            let bytes = inode.seen.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let allowed = self.disk.state().count(Kind::Write);
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|inode| {
            // A write that is cut off may have begun.
            inode.unsynced.push(Unsynced::Write(offset, data.to_vec()));
            if allowed.is_ok() {
                put(&mut inode.seen, offset, data);
            }
        });
        allowed
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|inode| inode.seen.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = self.with(|inode| inode.seen.len() as u64) < len;
        self.disk.state().count(if grows { Kind::Write } else { Kind::Other })?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|inode| {
            inode.unsynced.push(Unsynced::Len(len));
            inode.seen.resize(len, 0);
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let delay = self.disk.state().sync_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.disk.state().count(Kind::Sync)?;
        self.with(|inode| {
            inode.synced = inode.seen.clone();
            inode.unsynced.clear();
        });
        Ok(())
    }
}

struct Held(MemDisk, PathBuf);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().locks.remove(&self.1);
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let known = state.names.get(path).copied();
        let id = match (known, mode) {
            (Some(id), OpenMode::Read | OpenMode::ReadWrite) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (_, OpenMode::Create) => {
                state.count(Kind::Other)?;
                let id = state.inodes.len() as u64;
                state.inodes.insert(id, Inode::default());
                state.names.insert(path.to_owned(), id);
                state.rename_noted();
                id
            }
        };
        Ok(Box::new(MemFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Kind::Other)?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        state.rename_noted();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Kind::Other)?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.rename_noted();
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Kind::Sync)?;
        state.names_history = vec![state.names.clone()];
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        if !self.state().locks.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DirLock::new(Held(self.clone(), dir.to_owned())))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().free_bytes.unwrap_or(u64::MAX))
    }

    fn lag(&self) -> Duration {
        self.state().lag
    }
}
