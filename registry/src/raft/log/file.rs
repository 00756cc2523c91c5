//! The log file: a header page of our own, then a redb database. One transaction per group commit; what is
//! found on opening is either everything that was acknowledged, or a refusal.
//!
//! redb falls back to the commit before the last where the last one is damaged, which after a power cut is
//! right and after an acknowledgement is a loss. So each commit has a number, and after the commit, before
//! anyone is told, its number is written to the header page (the witness). It needs no fsync of its own: it
//! outlives the process, and the next commit makes it durable against a power cut.

use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use redb::{Table, TableDefinition, WriteTransaction};

use super::device::{Backend, Device, Fuse, PAGE_BYTES};
use super::tail::Tail;
use crate::disk::{Disk, OpenMode, StoreError};
use crate::raft::record::{self, LogIdRecord, VoteRecord};
use crate::raft::types::{Entry, LogId, Vote};

/// The name of the log in the data directory.
pub(super) const LOG_FILE: &str = "raft.log";
const NEW_LOG_FILE: &str = "raft.log.new";
const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"RCALLLOG";
/// What redb keeps in memory; the tail serves nearly all reads.
const CACHE_BYTES: usize = 4 << 20;
/// A record holds at most this many entries and about this many bytes.
const RECORD_ENTRIES_MAX: usize = 4096;
const RECORD_BYTES_MAX: usize = 256 << 10;
/// A transaction deletes at most this many purged entries: a million at once stalls for 300 ms.
const PURGE_STEP_ENTRIES: u64 = 10_000;

/// Sealed single values, by the keys below.
const META: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("meta");
/// Index of the first entry -> sealed packed entries, preceded by their number.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const KEY_OWNER: u64 = 1;
const KEY_COMMIT: u64 = 2;
const KEY_VOTE: u64 = 3;
const KEY_COMMITTED: u64 = 4;
const KEY_PURGED: u64 = 5;

/// Whose log it is, and the number of its newest commit.
#[derive(Clone, PartialEq, Eq, Message)]
struct OwnerRecord {
    #[prost(fixed64, tag = "1")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    cluster_id: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct CommitRecord {
    #[prost(uint64, tag = "1")]
    number: u64,
}

/// One change of the log file; applied in order, all of a batch or none.
#[derive(Debug)]
pub(super) enum Change {
    /// Consecutive entries at the end.
    Append(Vec<Entry>),
    /// Nothing after this index stays (`None`: nothing at all).
    Truncate(Option<u64>),
    /// Everything up to here is forgotten; the space is given back step by step.
    Purge(LogId),
    /// The vote.
    Vote(Vote),
    /// The committed log id.
    Committed(LogId),
    /// The cluster that the node belongs to.
    Cluster(u128),
}

/// The open log file. Dropping it is a crash; [`LogFile::close`] is not.
#[derive(Debug)]
pub(super) struct LogFile {
    // Before `database`: fields drop in order.
    fuse: Fuse,
    database: Database,
    path: PathBuf,
}

/// What stands in the log file apart from its entries.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The number of the newest commit.
    pub(super) commit: u64,
    /// The cluster, where the node knew it.
    pub(super) cluster_id: Option<u128>,
}

/// A damage found while reading: where, and what.
#[derive(Debug)]
struct Damage(String, String);

impl<E: std::error::Error> From<E> for Damage {
    fn from(error: E) -> Self {
        Self("the database behind the header page".to_owned(), error.to_string())
    }
}

impl LogFile {
    /// Whether the log exists in `dir`.
    pub(super) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, StoreError> {
        let names = disk.list(dir).map_err(|e| StoreError::io("list", dir, e))?;
        Ok(names.iter().any(|name| name == LOG_FILE))
    }

    /// Makes an empty log; it appears under its name when it is complete.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, node_id: u64) -> Result<(), StoreError> {
        let (new, path) = (dir.join(NEW_LOG_FILE), dir.join(LOG_FILE));
        let file = disk.open(&new, OpenMode::Create);
        let device = Device::new(file.map_err(|e| StoreError::io("create", &new, e))?);
        Self::fill_new(&device, node_id).map_err(|Damage(_, reason)| {
            StoreError::io("create", &new, io::Error::other(reason))
        })?;
        disk.rename(&new, &path).map_err(|e| StoreError::io("rename", &new, e))?;
        disk.sync_dir(dir).map_err(|e| StoreError::io("fsync", dir, e))
    }

    fn fill_new(device: &Arc<Device>, node_id: u64) -> Result<(), Damage> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&node_id.to_le_bytes());
        header.extend_from_slice(&record::checksum(0, &header).to_le_bytes());
        device.set_len(PAGE_BYTES)?;
        device.write(0, &header)?;
        device.write_witness(0)?;
        device.write_witness(1)?;
        let database = open_redb(device)?;
        let txn = database.begin_write()?;
        txn.open_table(ENTRIES)?;
        let mut meta = txn.open_table(META)?;
        put(&mut meta, KEY_OWNER, &OwnerRecord { node_id, cluster_id: Vec::new() })?;
        put(&mut meta, KEY_COMMIT, &CommitRecord { number: 1 })?;
        drop(meta);
        txn.commit()?;
        drop(database);
        device.sync()?;
        Ok(())
    }

    /// Opens the log of `node_id`, checks all of it, and hands its state to `tail`.
    ///
    /// # Errors
    /// Damage of any kind, a newer format, another node's log, a failing disk. Nothing is ever cut.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        node_id: u64,
        tail: &mut Tail,
    ) -> Result<(Self, Found), StoreError> {
        let path = dir.join(LOG_FILE);
        let file = disk.open(&path, OpenMode::ReadWrite);
        let device = Device::new(file.map_err(|e| StoreError::io("open", &path, e))?);
        let witness = read_header(&device, &path, node_id)?;
        // redb may panic on what a damaged file makes it believe.
        let opened = catch_unwind(AssertUnwindSafe(|| load(&device, node_id, tail)));
        let damage = match opened {
            Ok(Ok((database, found))) if found.commit >= witness => {
                let fuse = Fuse { device, armed: true };
                return Ok((Self { fuse, database, path }, found));
            }
            Ok(Ok((_, found))) => Damage(
                format!("commit {witness}"),
                format!("it was acknowledged, but the newest one found is {}", found.commit),
            ),
            Ok(Err(damage)) => damage,
            Err(panic) => Damage("the database behind the header page".into(), told(&*panic)),
        };
        device.kill();
        match device.first_error() {
            Some((kind, error)) => Err(StoreError::io("read", &path, io::Error::new(kind, error))),
            None => Err(StoreError::damaged(&path, damage.0, damage.1)),
        }
    }

    /// Applies `changes` in one durable transaction with the given number, and deletes a step of what lies
    /// before `purged`. Tells whether there is more to delete. After an error the file is dead.
    pub(super) fn commit(
        &self,
        number: u64,
        changes: &[Change],
        purged: Option<LogId>,
    ) -> Result<bool, String> {
        let committed = catch_unwind(AssertUnwindSafe(|| -> Result<bool, Damage> {
            let txn = self.database.begin_write()?;
            let more = apply(&txn, number, changes, purged)?;
            txn.commit()?;
            self.fuse.device.write_witness(number)?;
            Ok(more)
        }));
        let error = match committed {
            Ok(Ok(more)) => return Ok(more),
            Ok(Err(Damage(_, reason))) => reason,
            Err(panic) => told(&*panic),
        };
        self.fuse.device.kill();
        let error = self.fuse.device.first_error().map_or(error, |(_, first)| first);
        Err(format!("{}: {error}", self.path.display()))
    }

    /// A consistent view for [`read_entries`].
    pub(super) fn begin_read(&self) -> io::Result<ReadTransaction> {
        self.database.begin_read().map_err(|e| self.read_error(e))
    }

    /// An error of reading, with the name of the file.
    fn read_error(&self, error: impl fmt::Display) -> io::Error {
        io::Error::other(format!("read {}: {error}", self.path.display()))
    }

    /// Closes the file in order, so that the next start needs no repair.
    pub(super) fn close(mut self) {
        self.fuse.armed = false;
    }

    /// The length of the file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.fuse.device.len().unwrap_or_default()
    }
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the database panicked: {}", text.unwrap_or("for no stated reason"))
}

fn open_redb(device: &Arc<Device>) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(Backend(Arc::clone(device)))
}

/// Checks the header page and returns the witness: the newest commit that was acknowledged for sure.
fn read_header(device: &Device, path: &Path, node_id: u64) -> Result<u64, StoreError> {
    let io = |e| StoreError::io("read", path, e);
    let len = device.len().map_err(io)?;
    if len <= PAGE_BYTES {
        let reason = "the file is shorter than an empty log";
        return Err(StoreError::damaged(path, format!("length {len}"), reason));
    }
    let mut header = [0; 24];
    device.read(0, &mut header).map_err(io)?;
    let (content, crc) = header.split_at(20);
    if !content.starts_with(&MAGIC) {
        return Err(StoreError::damaged(path, "offset 0", "this is not a Raft log"));
    }
    if crc != record::checksum(0, content).to_le_bytes() {
        return Err(StoreError::damaged(path, "offset 0", "the checksum of the header is wrong"));
    }
    let version = content[8..12].try_into().map_or(0, u32::from_le_bytes);
    if version > FORMAT_VERSION {
        let path = path.to_owned();
        return Err(StoreError::NewerFormat { path, found: version, known: FORMAT_VERSION });
    }
    let owner = content[12..20].try_into().map_or(0, u64::from_le_bytes);
    if owner != node_id {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            found: format!("node {owner:016x}"),
            expected: format!("node {node_id:016x}"),
        });
    }
    device.read_witness().map_err(io)?.ok_or_else(|| {
        StoreError::damaged(path, "offset 512", "no intact number of the newest commit")
    })
}

/// Opens the database, verifies every page and every record, and fills `tail`.
fn load(device: &Arc<Device>, node_id: u64, tail: &mut Tail) -> Result<(Database, Found), Damage> {
    let mut database = open_redb(device)?;
    // A check that failed and was repaired may have gone back a commit: the witness decides about that.
    if !database.check_integrity()? {
        tracing::warn!("the raft log failed its integrity check and was repaired");
    }
    let txn = database.begin_read()?;
    let meta = txn.open_table(META)?;
    let owner: OwnerRecord = need(get(&meta, KEY_OWNER)?, "owner")?;
    if owner.node_id != node_id {
        let reason = format!("it names node {:016x}", owner.node_id);
        return Err(Damage("record owner".to_owned(), reason));
    }
    let commit: CommitRecord = need(get(&meta, KEY_COMMIT)?, "commit number")?;
    let cluster_id = <[u8; 16]>::try_from(owner.cluster_id.as_slice());
    let found =
        Found { commit: commit.number, cluster_id: cluster_id.ok().map(u128::from_be_bytes) };
    tail.vote = get::<VoteRecord>(&meta, KEY_VOTE)?.map(Vote::from);
    tail.committed = get::<LogIdRecord>(&meta, KEY_COMMITTED)?.map(LogId::from);
    if let Some(purged) = get::<LogIdRecord>(&meta, KEY_PURGED)? {
        tail.purge(purged.into());
    }
    load_entries(&txn, tail)?;
    drop((meta, txn));
    Ok((database, found))
}

fn load_entries(txn: &ReadTransaction, tail: &mut Tail) -> Result<(), Damage> {
    let first_kept = tail.purged().map_or(0, |purged| purged.index + 1);
    let mut previous: Option<LogId> = None;
    for record in txn.open_table(ENTRIES)?.iter()? {
        let (key, value) = record?;
        let entries = unpack(key.value(), value.value())?;
        for entry in entries {
            let id = entry.log_id;
            if previous.is_some_and(|p| id.leader_id < p.leader_id) {
                let reason = "it has an older term than the one before it";
                return Err(Damage(format!("entry {}", id.index), reason.to_owned()));
            }
            previous = Some(id);
            if id.index < first_kept {
                continue;
            }
            let place = format!("entry {}", id.index);
            tail.push(entry, 0).map_err(|hole| Damage(place, hole.to_string()))?;
        }
    }
    Ok(())
}

fn apply(
    txn: &WriteTransaction,
    number: u64,
    changes: &[Change],
    mut purged: Option<LogId>,
) -> Result<bool, Damage> {
    let mut meta = txn.open_table(META)?;
    let mut entries = txn.open_table(ENTRIES)?;
    let mut pending: Vec<&Entry> = Vec::new();
    for change in changes {
        match change {
            Change::Append(added) => pending.extend(added),
            Change::Truncate(after) => {
                let keep = |entry: &&Entry| after.is_some_and(|after| entry.log_id.index <= after);
                pending.retain(keep);
                truncate(&mut entries, after.map_or(0, |after| after + 1))?;
            }
            Change::Purge(upto) => {
                purged = Some(*upto);
                put(&mut meta, KEY_PURGED, &LogIdRecord::from(*upto))?;
            }
            Change::Vote(vote) => put(&mut meta, KEY_VOTE, &VoteRecord::from(vote))?,
            Change::Committed(id) => put(&mut meta, KEY_COMMITTED, &LogIdRecord::from(*id))?,
            Change::Cluster(id) => {
                let mut owner: OwnerRecord = need(get(&meta, KEY_OWNER)?, "owner")?;
                owner.cluster_id = id.to_be_bytes().to_vec();
                put(&mut meta, KEY_OWNER, &owner)?;
            }
        }
    }
    append(&mut entries, &pending)?;
    put(&mut meta, KEY_COMMIT, &CommitRecord { number })?;
    purge_step(&mut entries, purged)
}

/// Packs consecutive entries into records.
fn append(table: &mut Table<'_, u64, &[u8]>, entries: &[&Entry]) -> Result<(), Damage> {
    let mut packed: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = Tail::entry_bytes(entry);
        // A snapshot that reaches past the end of the log leaves a gap within a batch.
        let follows = |last: &Entry| last.log_id.index + 1 == entry.log_id.index;
        let full = packed.len() == RECORD_ENTRIES_MAX || bytes + size > RECORD_BYTES_MAX;
        if full || !packed.last().is_none_or(follows) {
            pack(table, &packed)?;
            packed.clear();
            bytes = 0;
        }
        bytes += size;
        packed.push(Entry::clone(entry));
    }
    pack(table, &packed)
}

fn pack(table: &mut Table<'_, u64, &[u8]>, entries: &[Entry]) -> Result<(), Damage> {
    let Some(first) = entries.first().map(|entry| entry.log_id.index) else { return Ok(()) };
    let mut record = (entries.len() as u64).to_le_bytes().to_vec();
    record.extend_from_slice(&record::encode_entries(entries));
    table.insert(first, record::seal(first, &record).as_slice())?;
    Ok(())
}

/// The number of entries that a record holds, without decoding them.
fn packed_len(key: u64, value: &[u8]) -> Result<u64, Damage> {
    let count = value.get(4..12).and_then(|count| count.try_into().ok()).map(u64::from_le_bytes);
    count.filter(|count| *count > 0).ok_or_else(|| {
        Damage(format!("record of entry {key}"), "it does not tell its number of entries".into())
    })
}

fn unpack(key: u64, value: &[u8]) -> Result<Vec<Entry>, Damage> {
    let place = || format!("record of entry {key}");
    let content = record::unseal(key, value).map_err(|reason| Damage(place(), reason))?;
    let count = packed_len(key, value)?;
    let packed = Bytes::copy_from_slice(content.get(8..).unwrap_or_default());
    let entries = record::decode_entries(key, packed).map_err(|e| Damage(place(), e))?;
    if entries.len() as u64 != count {
        let reason = format!("it holds {} entries, should be {count}", entries.len());
        return Err(Damage(place(), reason));
    }
    Ok(entries)
}

/// Removes every entry from `start` on.
fn truncate(table: &mut Table<'_, u64, &[u8]>, start: u64) -> Result<(), Damage> {
    let straddling = match table.range(..start)?.next_back().transpose()? {
        Some((key, value)) if key.value() + packed_len(key.value(), value.value())? > start => {
            Some(unpack(key.value(), value.value())?)
        }
        _ => None,
    };
    if let Some(mut entries) = straddling {
        entries.retain(|entry| entry.log_id.index < start);
        pack(table, &entries)?;
    }
    table.retain_in(start.., |_, _| false)?;
    Ok(())
}

/// Removes records that lie wholly before the end of what is purged; tells whether more are left.
fn purge_step(table: &mut Table<'_, u64, &[u8]>, purged: Option<LogId>) -> Result<bool, Damage> {
    let Some(purged) = purged else { return Ok(false) };
    let mut doomed = Vec::new();
    let mut entries = 0;
    let mut more = false;
    for record in table.range(..=purged.index)? {
        let (key, value) = record?;
        let count = packed_len(key.value(), value.value())?;
        if key.value() + (count - 1) > purged.index {
            break;
        }
        entries += count;
        if entries > PURGE_STEP_ENTRIES && !doomed.is_empty() {
            more = true;
            break;
        }
        doomed.push(key.value());
    }
    for key in doomed {
        table.remove(key)?;
    }
    Ok(more)
}

/// The entries of a range that is on disk, stopping once `bytes_max` is passed; at least one where there is.
pub(super) fn read_entries(
    txn: &ReadTransaction,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, String> {
    collect_entries(txn, range, bytes_max)
        .map_err(|Damage(place, reason)| format!("read {LOG_FILE}: {place}: {reason}"))
}

fn collect_entries(
    txn: &ReadTransaction,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, Damage> {
    let table = txn.open_table(ENTRIES)?;
    let holder = table.range(..=range.start)?.next_back().transpose()?;
    let from = holder.map_or(range.start, |(key, _)| key.value());
    let mut found: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    for record in table.range(from..range.end)? {
        let (key, value) = record?;
        for entry in unpack(key.value(), value.value())? {
            if !range.contains(&entry.log_id.index) {
                continue;
            }
            bytes += Tail::entry_bytes(&entry);
            if bytes > bytes_max && !found.is_empty() {
                return Ok(found);
            }
            found.push(entry);
        }
    }
    Ok(found)
}

fn put(
    table: &mut Table<'_, u64, &[u8]>,
    key: u64,
    value: &impl Message,
) -> Result<(), redb::StorageError> {
    table.insert(key, record::seal(key, &value.encode_to_vec()).as_slice())?;
    Ok(())
}

fn get<T: Message + Default>(
    table: &impl ReadableTable<u64, &'static [u8]>,
    key: u64,
) -> Result<Option<T>, Damage> {
    let Some(sealed) = table.get(key)? else { return Ok(None) };
    let damage = |reason: String| Damage(format!("record {key}"), reason);
    let content = record::unseal(key, sealed.value()).map_err(damage)?;
    T::decode(content).map(Some).map_err(|e| damage(e.to_string()))
}

fn need<T>(value: Option<T>, name: &str) -> Result<T, Damage> {
    value.ok_or_else(|| Damage(format!("record {name}"), "it is missing".to_owned()))
}
