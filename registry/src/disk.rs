//! The disk as a value: everything the node stores goes through [`Disk`], so that a simulator or a
//! test can own it, lose what was not synced and fail any operation. [`StdDisk`] is the real one.
//! All calls block; who calls them decides on which thread.

use std::any::Any;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

/// Below this many free bytes (64 MiB) a node refuses writes, while it still can do so in order.
pub const NEARLY_FULL_BYTES: u64 = 64 << 20;

/// The name of the file whose lock says that a data directory is in use.
pub const LOCK_FILE: &str = "LOCK";

/// How [`Disk::open`] treats a file that is there, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; opened for reading alone.
    Read,
    /// Must exist; opened for reading and writing.
    ReadWrite,
    /// Created empty, readable by its owner alone; what stood there is cut to nothing.
    Create,
}

/// The file system operations that the node needs, and no others.
///
/// Paths are used as given. Errors are those of the operating system; callers add what they tried.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Opens a regular file. Symbolic links, directories, pipes and devices are refused.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// Replaces `to` by `from` at once; durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of what is in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates `dir` and what is missing above it, open to the owner alone.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes `dir` for this process; `WouldBlock` where another holder exists. Held until dropped.
    fn lock(&self, dir: &Path) -> io::Result<DirLock>;
    /// Bytes that this process may still write to the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// How long work waits before it is done where it runs in a task ([`WriterMode::Task`]), which must not block. A real
    /// disk blocks by itself.
    ///
    /// [`WriterMode::Task`]: crate::host::WriterMode::Task
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file of a [`Disk`].
#[allow(clippy::len_without_is_empty, reason = "no caller asks whether a file is empty")]
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Fills `buf` from `offset`; `UnexpectedEof` where the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`; durable only after [`DiskFile::sync_data`].
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends the file; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// The exclusive hold on a data directory; dropping it gives the directory free.
pub struct DirLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl DirLock {
    /// A lock that lasts as long as `held` is not dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

/// Why stored data could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The content cannot be trusted. Nothing is cut or repaired: what was acknowledged could be lost.
    #[error(
        "{} is damaged at {place}: {reason}; the node must not start with it: restore the file, or \
         clear the data directory and let the node join again under a new id",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The byte offset, record or index of the damage.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// Written by a newer release.
    #[error(
        "{} has format version {found}, this release knows {known} at most: run a newer release",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this release reads.
        known: u32,
    },
    /// The file belongs to another cluster or node.
    #[error("{} belongs to {found}, not to {expected}: wrong data directory?", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A file that this node has written before is gone.
    #[error(
        "{} is missing although this node has written it: restore it, or clear the data directory \
         and let the node join again under a new id",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the data directory.
    #[error(
        "data directory {} is in use by another process: stop that one, or choose another directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

impl StoreError {
    /// An [`StoreError::Io`]: `action` is a verb such as "open".
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// An [`StoreError::Damaged`] at a place of any form.
    pub fn damaged(path: &Path, place: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            place: place.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Io { source, .. } => source.kind(),
            StoreError::Missing { .. } => io::ErrorKind::NotFound,
            StoreError::InUse { .. } => io::ErrorKind::WouldBlock,
            StoreError::Damaged { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::Foreign { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Creates `dir` where it is missing and takes it for this process.
///
/// # Errors
/// [`StoreError::InUse`] where another process (or another node of this one) holds it.
pub fn lock_data_dir(disk: &dyn Disk, dir: &Path) -> Result<DirLock, StoreError> {
    disk.create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
    disk.lock(dir).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse { path: dir.to_owned() },
        _ => StoreError::io("lock", dir, e),
    })
}

/// Whether fewer than [`NEARLY_FULL_BYTES`] are left for `dir`. A disk that cannot tell is not full:
/// the write that fails says so.
pub fn is_nearly_full(disk: &dyn Disk, dir: &Path) -> bool {
    disk.free_bytes(dir).is_ok_and(|free| free < NEARLY_FULL_BYTES)
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = open_regular(path, mode)?;
        if mode == OpenMode::Create {
            file.set_len(0)?;
        }
        Ok(Box::new(StdFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let file = open_regular(&dir.join(LOCK_FILE), OpenMode::Create)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Opens without following a link in the last component, and never a pipe or a device: a non-blocking
/// open cannot hang on either.
fn open_regular(path: &Path, mode: OpenMode) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(mode != OpenMode::Read)
        .create(mode == OpenMode::Create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

#[derive(Debug)]
struct StdFile(File);

impl DiskFile for StdFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_of_a_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let held = lock_data_dir(&StdDisk, &path).unwrap();
        let refused = lock_data_dir(&StdDisk, &path).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        drop(held);
        lock_data_dir(&StdDisk, &path).unwrap();
    }

    #[test]
    fn files_and_directories_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        StdDisk.create_dir_all(&data).unwrap();
        StdDisk.open(&data.join("f"), OpenMode::Create).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join("f"))), (0o700, 0o600));
    }

    #[test]
    fn links_and_directories_are_not_opened_as_files() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        StdDisk.open(&target, OpenMode::Create).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create] {
            assert!(StdDisk.open(&link, mode).is_err(), "{mode:?} followed a link");
            assert!(StdDisk.open(dir.path(), mode).is_err(), "{mode:?} opened a directory");
        }
    }

    #[test]
    fn a_new_file_system_tells_its_free_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(StdDisk.free_bytes(dir.path()).unwrap() > 0);
    }
}
