//! Who this node is: its id, made once and never used again, and the cluster it belongs to, set once. One
//! small file, replaced as a whole. The file outlives everything else of a data directory on purpose: a log or
//! snapshot without it, or of another id, is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use super::record;
use crate::disk::{Disk, OpenMode, StoreError};
use crate::host::Random;

const IDENTITY_FILE: &str = "identity";
const NEW_IDENTITY_FILE: &str = "identity.new";
const MAGIC: [u8; 8] = *b"RCALLNID";
const FORMAT_VERSION: u32 = 1;
/// Far above what the content needs; a larger file is refused before it is read.
const FILE_BYTES_MAX: u64 = 4096;
/// Magic and version, which precede the sealed content.
const PREFIX_BYTES: usize = 12;

#[derive(Clone, PartialEq, Eq, Message)]
struct IdentityRecord {
    #[prost(fixed64, tag = "1")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    cluster_id: Vec<u8>,
    #[prost(bool, tag = "3")]
    has_log: bool,
}

/// The identity of the node in one data directory.
#[derive(Clone, Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node_id: u64,
    cluster_id: Option<u128>,
    has_log: bool,
}

impl Identity {
    /// Reads the identity, or makes one with a random id where the directory has none. The caller holds the
    /// lock of `dir`.
    ///
    /// # Errors
    /// A damaged file, a newer format, an identity missing beside a log or snapshot, or what the disk said.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, random: &Random) -> Result<Self, StoreError> {
        let path = dir.join(IDENTITY_FILE);
        let names = disk.list(dir).map_err(|e| StoreError::io("list", dir, e))?;
        if names.iter().any(|name| name == IDENTITY_FILE) {
            return Self::read(disk, dir);
        }
        if names.iter().any(|name| name == "raft.log" || name.ends_with(".snapshot")) {
            return Err(StoreError::Missing { path });
        }
        let node_id = loop {
            let id = random.bits();
            if id != 0 {
                break id;
            }
        };
        let dir = dir.to_owned();
        let identity = Self { disk, dir, node_id, cluster_id: None, has_log: false };
        identity.write()?;
        Ok(identity)
    }

    /// The id of the node; never 0.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The cluster, once the node has bootstrapped or joined one.
    pub fn cluster_id(&self) -> Option<u128> {
        self.cluster_id
    }

    /// Whether the node has made its log before; then a missing log is a loss.
    pub fn has_log(&self) -> bool {
        self.has_log
    }

    /// Notes durably that the log exists.
    ///
    /// # Errors
    /// What the disk said.
    pub fn set_has_log(&mut self) -> Result<(), StoreError> {
        if self.has_log {
            return Ok(());
        }
        let new = Self { has_log: true, ..self.clone() };
        new.write()?;
        *self = new;
        Ok(())
    }

    /// Sets the cluster durably, once. Setting the same one again is fine.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] where the node belongs to another cluster; what the disk said.
    pub fn set_cluster_id(&mut self, cluster_id: u128) -> Result<(), StoreError> {
        match self.cluster_id {
            Some(own) if own == cluster_id => Ok(()),
            Some(own) => Err(StoreError::Foreign {
                path: self.dir.clone(),
                found: format!("cluster {own:032x}"),
                expected: format!("cluster {cluster_id:032x}"),
            }),
            None => {
                let new = Self { cluster_id: Some(cluster_id), ..self.clone() };
                new.write()?;
                *self = new;
                Ok(())
            }
        }
    }

    fn read(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(IDENTITY_FILE);
        let content = read_small(&*disk, &path)?;
        let damaged = |place: &str, reason: String| StoreError::damaged(&path, place, reason);
        let Some((prefix, sealed)) = content.split_first_chunk::<PREFIX_BYTES>() else {
            let reason = format!("{} bytes are too few", content.len());
            return Err(damaged("offset 0", reason));
        };
        if !prefix.starts_with(&MAGIC) {
            return Err(damaged("offset 0", "this is not an identity file".to_owned()));
        }
        let version = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
        // The version is part of the checksum: one that was changed by damage is not called newer.
        let place = u64::from(version);
        let content = record::unseal(place, sealed).map_err(|e| damaged("offset 12", e))?;
        if version > FORMAT_VERSION {
            return Err(StoreError::NewerFormat { path, found: version, known: FORMAT_VERSION });
        }
        let record =
            IdentityRecord::decode(content).map_err(|e| damaged("offset 16", e.to_string()))?;
        let cluster_id = match <[u8; 16]>::try_from(record.cluster_id.as_slice()) {
            Ok(bytes) => Some(u128::from_be_bytes(bytes)),
            Err(_) if record.cluster_id.is_empty() => None,
            Err(_) => return Err(damaged("offset 16", "no cluster id has that length".to_owned())),
        };
        if record.node_id == 0 {
            return Err(damaged("offset 16", "the node id is 0".to_owned()));
        }
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            node_id: record.node_id,
            cluster_id,
            has_log: record.has_log,
        })
    }

    fn write(&self) -> Result<(), StoreError> {
        let record = IdentityRecord {
            node_id: self.node_id,
            cluster_id: self.cluster_id.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
            has_log: self.has_log,
        };
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        content.extend(record::seal(u64::from(FORMAT_VERSION), &record.encode_to_vec()));
        let (new, path) = (self.dir.join(NEW_IDENTITY_FILE), self.dir.join(IDENTITY_FILE));
        let written = self.disk.open(&new, OpenMode::Create).and_then(|file| {
            file.write_at(0, &content)?;
            file.sync_data()
        });
        written.map_err(|e| StoreError::io("write", &new, e))?;
        self.disk.rename(&new, &path).map_err(|e| StoreError::io("rename", &new, e))?;
        self.disk.sync_dir(&self.dir).map_err(|e| StoreError::io("fsync", &self.dir, e))
    }
}

fn read_small(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StoreError> {
    let io = |e| StoreError::io("read", path, e);
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > FILE_BYTES_MAX {
        return Err(StoreError::damaged(path, format!("length {len}"), "far too long"));
    }
    let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_at(0, &mut content).map_err(io)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::StdDisk;

    fn open(dir: &Path, seed: u64) -> Result<Identity, StoreError> {
        Identity::open(Arc::new(StdDisk), dir, &Random::new(seed))
    }

    #[test]
    fn the_node_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 1).unwrap();
        assert_ne!(first.node_id(), 0);
        let again = open(dir.path(), 2).unwrap();
        assert_eq!((again.node_id(), again.cluster_id()), (first.node_id(), None));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(open(other.path(), 2).unwrap().node_id(), first.node_id());
    }

    #[test]
    fn the_cluster_is_set_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = open(dir.path(), 1).unwrap();
        identity.set_cluster_id(7).unwrap();
        identity.set_cluster_id(7).unwrap();
        identity.set_has_log().unwrap();
        let refused = identity.set_cluster_id(8).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
        let again = open(dir.path(), 1).unwrap();
        assert_eq!((again.cluster_id(), again.has_log()), (Some(7), true));
    }

    #[test]
    fn no_damage_of_the_file_goes_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = open(dir.path(), 1).unwrap();
        identity.set_cluster_id(u128::MAX).unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            assert!(open(dir.path(), 1).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&path, &flipped).unwrap();
                let refused = open(dir.path(), 1).unwrap_err();
                let seen = matches!(refused, StoreError::Damaged { .. });
                assert!(seen, "bit {bit} of byte {at}: {refused}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 1).unwrap();
        let mut newer = MAGIC.to_vec();
        newer.extend_from_slice(&2_u32.to_le_bytes());
        newer.extend(record::seal(2, b"what a later release writes"));
        fs::write(dir.path().join(IDENTITY_FILE), newer).unwrap();
        let refused = open(dir.path(), 1).unwrap_err();
        assert!(matches!(refused, StoreError::NewerFormat { found: 2, .. }), "{refused}");
    }

    #[test]
    fn a_lost_identity_is_not_replaced_beside_a_log() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("raft.log"), b"x").unwrap();
        assert!(matches!(open(dir.path(), 1), Err(StoreError::Missing { .. })));
    }
}
