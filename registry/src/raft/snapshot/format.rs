//! The bytes of a snapshot file. Little-endian throughout:
//!
//! ```text
//! magic [8] | version u32 | header length u32 | header (prost) | crc32c of all before
//! each part:  length u32 (1 to 1 MiB) | crc32c of number and content | content
//! the end:    0 u32 | parts u64 | content bytes u64 | xxh3-128 of all before the 0 | crc32c of the end
//! ```
//! The same state and header give the same bytes on every node, so sender and receiver compare one digest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::{PART_BYTES_MAX, SnapshotInfo, SnapshotTotals};
use crate::disk::{DiskFile, StoreError};
use crate::raft::record::{self, LogIdRecord, MembershipRecord};
use crate::raft::types::{LogId, SnapshotMeta};

const MAGIC: [u8; 8] = *b"RCALLSNP";
pub(super) const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Magic, version, length.
const PREFIX_BYTES: usize = 16;
/// Length and checksum before each part.
const FRAME_BYTES: usize = 8;
const END_BYTES: usize = 40;

#[derive(Clone, PartialEq, Message)]
struct HeaderRecord {
    #[prost(bytes = "vec", tag = "1")]
    cluster_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(message, optional, tag = "3")]
    last_log_id: Option<LogIdRecord>,
    #[prost(message, optional, tag = "4")]
    last_membership: Option<MembershipRecord>,
}

/// Writes a snapshot file front to back.
#[derive(Debug)]
pub(super) struct PartWriter {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    digest: Digest,
    info: SnapshotInfo,
}

/// [`Xxh3`], which cannot be printed.
struct Digest(Xxh3);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl PartWriter {
    /// Begins a file that is open and empty.
    pub(super) fn begin(
        file: Box<dyn DiskFile>,
        path: &Path,
        cluster_id: u128,
        epoch: u64,
        meta: &SnapshotMeta,
    ) -> Result<Self, StoreError> {
        let header = HeaderRecord {
            cluster_id: cluster_id.to_be_bytes().to_vec(),
            epoch,
            last_log_id: meta.last_log_id.map(LogIdRecord::from),
            last_membership: Some(MembershipRecord::from(&meta.last_membership)),
        }
        .encode_to_vec();
        let mut prefix = MAGIC.to_vec();
        prefix.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        prefix.extend_from_slice(&length.to_le_bytes());
        prefix.extend_from_slice(&header);
        prefix.extend_from_slice(&crc32c::crc32c(&prefix).to_le_bytes());
        let info = SnapshotInfo {
            version: FORMAT_VERSION,
            cluster_id,
            epoch,
            meta: meta.clone(),
            totals: SnapshotTotals::default(),
            file_bytes: 0,
        };
        let digest = Digest(Xxh3::new());
        let mut writer = Self { file, path: path.to_owned(), offset: 0, digest, info };
        writer.put(&prefix)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_at(self.offset, bytes);
        written.map_err(|e| StoreError::io("write", &self.path, e))?;
        self.digest.0.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Adds a part of 1 byte to [`PART_BYTES_MAX`].
    pub(super) fn part(&mut self, content: &[u8]) -> Result<(), StoreError> {
        if content.is_empty() || content.len() > PART_BYTES_MAX {
            let reason = format!("a part has 1 to {PART_BYTES_MAX} bytes, not {}", content.len());
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(StoreError::io("write", &self.path, error));
        }
        let totals = &mut self.info.totals;
        let mut framed = Vec::with_capacity(FRAME_BYTES + content.len());
        framed.extend_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
        framed.extend_from_slice(&record::checksum(totals.parts, content).to_le_bytes());
        framed.extend_from_slice(content);
        totals.parts += 1;
        totals.bytes += content.len() as u64;
        self.put(&framed)
    }

    /// Writes the end and makes the file durable.
    pub(super) fn finish(mut self) -> Result<(SnapshotInfo, Arc<dyn DiskFile>), StoreError> {
        let totals = &mut self.info.totals;
        totals.digest = self.digest.0.digest128();
        let mut end = 0_u32.to_le_bytes().to_vec();
        end.extend_from_slice(&totals.parts.to_le_bytes());
        end.extend_from_slice(&totals.bytes.to_le_bytes());
        end.extend_from_slice(&totals.digest.to_le_bytes());
        end.extend_from_slice(&crc32c::crc32c(&end).to_le_bytes());
        self.put(&end)?;
        self.file.sync_data().map_err(|e| StoreError::io("fsync", &self.path, e))?;
        self.info.file_bytes = self.offset;
        Ok((self.info, Arc::from(self.file)))
    }
}

/// A part with the bytes before it.
type Framed = ([u8; FRAME_BYTES], Vec<u8>);

/// Reads a file front to back, trusting nothing.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    len: u64,
    offset: u64,
}

impl Reader<'_> {
    fn damaged(&self, offset: u64, reason: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(self.path, format!("offset {offset}"), reason)
    }

    /// Fills `buffer`; a file that ends before is damaged.
    fn take(&mut self, buffer: &mut [u8]) -> Result<(), StoreError> {
        let left = self.len.saturating_sub(self.offset);
        if left < buffer.len() as u64 {
            let reason = format!("{} bytes expected, the file ends after {left}", buffer.len());
            return Err(self.damaged(self.offset, reason));
        }
        let read = self.file.read_at(self.offset, buffer);
        read.map_err(|e| StoreError::io("read", self.path, e))?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn header(&mut self, digest: &mut Xxh3) -> Result<SnapshotInfo, StoreError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.take(&mut prefix)?;
        if !prefix.starts_with(&MAGIC) {
            return Err(self.damaged(0, "this is not a snapshot"));
        }
        let version = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
        let length = u32::from_le_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]) as usize;
        if length > HEADER_BYTES_MAX || length as u64 > self.len {
            return Err(self.damaged(12, format!("a header of {length} bytes is too long")));
        }
        let mut header = vec![0; length];
        self.take(&mut header)?;
        let mut stored = [0; 4];
        self.take(&mut stored)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&prefix), &header);
        if crc.to_le_bytes() != stored {
            return Err(self.damaged(0, "the checksum of the header is wrong"));
        }
        if version > FORMAT_VERSION {
            let path = self.path.to_owned();
            return Err(StoreError::NewerFormat { path, found: version, known: FORMAT_VERSION });
        }
        digest.update(&prefix);
        digest.update(&header);
        digest.update(&stored);
        let offset = PREFIX_BYTES as u64;
        let (cluster_id, epoch, meta) =
            parse_header(&header).map_err(|reason| self.damaged(offset, reason))?;
        let totals = SnapshotTotals::default();
        Ok(SnapshotInfo { version, cluster_id, epoch, meta, totals, file_bytes: self.len })
    }

    /// The next part, or `None` at the end, whose marker is consumed.
    fn part(&mut self, number: u64) -> Result<Option<Framed>, StoreError> {
        let at = self.offset;
        let mut length = [0; 4];
        self.take(&mut length)?;
        let size = u32::from_le_bytes(length) as usize;
        if size == 0 {
            return Ok(None);
        }
        if size > PART_BYTES_MAX || size as u64 > self.len {
            let reason = format!("part {number} of {size} bytes is too long");
            return Err(self.damaged(at, reason));
        }
        let mut crc = [0; 4];
        self.take(&mut crc)?;
        let mut content = vec![0; size];
        self.take(&mut content)?;
        if record::checksum(number, &content).to_le_bytes() != crc {
            return Err(self.damaged(at, format!("the checksum of part {number} is wrong")));
        }
        let [a, b, c, d] = length;
        let [e, f, g, h] = crc;
        Ok(Some(([a, b, c, d, e, f, g, h], content)))
    }

    /// The totals at the end, which must be those that were counted.
    fn end(&mut self, counted: SnapshotTotals) -> Result<(), StoreError> {
        let at = self.offset - 4;
        let mut end = [0; END_BYTES];
        self.take(&mut end[4..])?;
        let (content, crc) = end.split_at(END_BYTES - 4);
        if crc32c::crc32c(content).to_le_bytes() != crc {
            return Err(self.damaged(at, "the checksum of the end is wrong"));
        }
        let mut expected = 0_u32.to_le_bytes().to_vec();
        expected.extend_from_slice(&counted.parts.to_le_bytes());
        expected.extend_from_slice(&counted.bytes.to_le_bytes());
        expected.extend_from_slice(&counted.digest.to_le_bytes());
        if content != expected {
            return Err(self.damaged(at, "parts, bytes or digest are not those of the content"));
        }
        if self.offset != self.len {
            let reason = format!("{} bytes follow the end", self.len - self.offset);
            return Err(self.damaged(self.offset, reason));
        }
        Ok(())
    }
}

fn parse_header(header: &[u8]) -> Result<(u128, u64, SnapshotMeta), String> {
    let record = HeaderRecord::decode(header).map_err(|e| e.to_string())?;
    let cluster_id = <[u8; 16]>::try_from(record.cluster_id.as_slice());
    let cluster_id = cluster_id.map_err(|_| "no cluster id has that length".to_owned())?;
    let membership = record.last_membership.ok_or("the membership is missing")?;
    let meta = SnapshotMeta {
        last_log_id: record.last_log_id.map(LogId::from),
        last_membership: membership.stored()?,
    };
    Ok((u128::from_be_bytes(cluster_id), record.epoch, meta))
}

/// Reads all of a snapshot file and verifies it. Never allocates more than a part (or the header) takes.
pub(super) fn verify(file: &dyn DiskFile, path: &Path) -> Result<SnapshotInfo, StoreError> {
    let len = file.len().map_err(|e| StoreError::io("read", path, e))?;
    let mut reader = Reader { file, path, len, offset: 0 };
    let mut digest = Xxh3::new();
    let mut info = reader.header(&mut digest)?;
    while let Some((frame, content)) = reader.part(info.totals.parts)? {
        digest.update(&frame);
        digest.update(&content);
        info.totals.parts += 1;
        info.totals.bytes += content.len() as u64;
    }
    info.totals.digest = digest.digest128();
    reader.end(info.totals)?;
    Ok(info)
}

/// The parts of a verified snapshot, in order; each checksum is checked again. Ends after an error.
#[derive(Debug)]
pub struct SnapshotParts {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    offset: Option<u64>,
    number: u64,
    parts: u64,
}

impl SnapshotParts {
    pub(super) fn new(file: Arc<dyn DiskFile>, path: PathBuf, info: &SnapshotInfo) -> Self {
        let totals = info.totals;
        // Everything that is neither header nor part content has a known size.
        let behind = totals.bytes + totals.parts * FRAME_BYTES as u64 + END_BYTES as u64;
        let offset = info.file_bytes.checked_sub(behind);
        Self { file, path, len: info.file_bytes, offset, number: 0, parts: totals.parts }
    }

    fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(offset) = self.offset.take().filter(|_| self.number < self.parts) else {
            return Ok(None);
        };
        let (file, path) = (&*self.file, self.path.as_path());
        let mut reader = Reader { file, path, len: self.len, offset };
        let Some((_, content)) = reader.part(self.number)? else {
            return Err(reader.damaged(offset, format!("part {} is missing", self.number)));
        };
        self.offset = Some(reader.offset);
        self.number += 1;
        Ok(Some(Bytes::from(content)))
    }
}

impl Iterator for SnapshotParts {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(io::Error::from).transpose()
    }
}
