//! The file under the database: a header page in front that the database never sees, the witnesses in it,
//! and an end with the first error.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::disk::DiskFile;
use crate::raft::record;

/// The header page: magic, version, node id, checksum at 0; the two witnesses at 512 and 1024, in sectors
/// of their own, so that a torn write spoils one at most.
pub(super) const PAGE_BYTES: u64 = 4096;
const WITNESS_AT: [u64; 2] = [512, 1024];

/// The file below redb: shifts it behind the header page, and dies with its first error.
pub(super) struct Device {
    file: Box<dyn DiskFile>,
    dead: AtomicBool,
    error: Mutex<Option<(io::ErrorKind, String)>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("dead", &self.dead).finish_non_exhaustive()
    }
}

impl Device {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Arc<Self> {
        Arc::new(Self { file, dead: AtomicBool::new(false), error: Mutex::new(None) })
    }

    /// Runs one operation. After the first error nothing reaches the file any more: redb would retry some
    /// writes, and an fsync that failed once proves nothing when it succeeds later.
    fn run<T>(&self, what: &str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.dead.load(Ordering::Acquire) {
            return Err(io::Error::other("the log file was given up"));
        }
        operation().inspect_err(|error| {
            self.dead.store(true, Ordering::Release);
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| (error.kind(), format!("{what}: {error}")));
        })
    }

    pub(super) fn first_error(&self) -> Option<(io::ErrorKind, String)> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.run("read", || self.file.read_at(offset, out))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.run("write", || self.file.write_at(offset, data))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.run("length", || self.file.len())
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.run("resize", || self.file.set_len(len))
    }

    /// From now on nothing reaches the file.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.run("fsync", || self.file.sync_data())
    }

    pub(super) fn write_witness(&self, number: u64) -> io::Result<()> {
        let slot = if number.is_multiple_of(2) { WITNESS_AT[0] } else { WITNESS_AT[1] };
        let mut block = number.to_le_bytes().to_vec();
        block.extend_from_slice(&record::checksum(slot, &block).to_le_bytes());
        self.write(slot, &block)
    }

    /// The newest witness that is intact, if any is.
    pub(super) fn read_witness(&self) -> io::Result<Option<u64>> {
        let mut newest = None;
        for slot in WITNESS_AT {
            let mut block = [0; 12];
            self.read(slot, &mut block)?;
            let (number, crc) = block.split_at(8);
            if crc == record::checksum(slot, number).to_le_bytes() {
                newest = newest.max(number.try_into().ok().map(u64::from_le_bytes));
            }
        }
        Ok(newest)
    }
}

/// The part of the file that redb sees.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Device>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()?.saturating_sub(PAGE_BYTES))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // A damaged file can send redb anywhere: that is damage, not a failure of the device.
        let at = offset.checked_add(PAGE_BYTES).filter(|at| {
            let end = at.checked_add(out.len() as u64);
            end.is_some_and(|end| self.0.file.len().is_ok_and(|len| end <= len))
        });
        let at = at.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "past the end"))?;
        self.0.read(at, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len.saturating_add(PAGE_BYTES))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset.saturating_add(PAGE_BYTES), data)
    }
}

/// Makes the device dead before redb closes: closing commits and fsyncs, which would turn a simulated crash,
/// or the end of a node that must not write any more, into a clean shutdown.
#[derive(Debug)]
pub(super) struct Fuse {
    pub(super) device: Arc<Device>,
    pub(super) armed: bool,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.armed {
            self.device.kill();
        }
    }
}
