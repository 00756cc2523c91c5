//! Snapshots and the identity on disks that lose power, fail and rot: complete and verified, or absent, or
//! refused with file, offset and reason.

use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rollcall_registry::disk::{Disk, NEARLY_FULL_BYTES, StoreError};
use rollcall_registry::host::Random;
use rollcall_registry::raft::identity::Identity;
use rollcall_registry::raft::snapshot::{
    PART_BYTES_MAX, SnapshotHandle, SnapshotStore, SnapshotTotals, inspect,
};
use rollcall_registry::raft::types::{SnapshotMeta, StoredMembership};

use crate::workload::{CLUSTER_ID, data_dir, log_id};
use rollcall_sim_tests::disk::{Fault, MemDisk};

fn open(disk: &MemDisk) -> Result<SnapshotStore, StoreError> {
    SnapshotStore::open(Arc::new(disk.clone()), &data_dir(), Some(CLUSTER_ID))
}

fn meta(index: u64) -> SnapshotMeta {
    let last_membership = StoredMembership::new(Some(log_id(1, 1)), Default::default());
    SnapshotMeta { last_log_id: Some(log_id(2, index)), last_membership }
}

/// The parts of the snapshot at `index`: some, of all sizes.
fn parts(index: u64) -> Vec<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(index);
    (0..3 + index % 4)
        .map(|_| {
            let bytes = rng.random_range(1..5000);
            let mut part = vec![0; bytes];
            rng.fill_bytes(&mut part);
            part
        })
        .collect()
}

fn read(handle: &SnapshotHandle) -> Vec<Vec<u8>> {
    handle.parts().map(|part| part.unwrap().to_vec()).collect()
}

fn files(disk: &MemDisk) -> Vec<PathBuf> {
    disk.names().into_iter().filter(|name| name.to_string_lossy().contains("snapshot")).collect()
}

#[test]
fn the_newest_snapshot_is_kept_and_the_older_ones_go() {
    let disk = MemDisk::new();
    let store = open(&disk).unwrap();
    assert!(store.latest().is_none());
    let old = store.write(&meta(10), 3, parts(10)).unwrap();
    let new = store.write(&meta(20), 3, parts(20)).unwrap();
    assert_eq!(files(&disk).len(), 1);
    assert_eq!(read(&old), parts(10), "a replaced snapshot must stay readable");
    // One that comes late is readable, and never becomes current.
    let late = store.write(&meta(15), 3, parts(15)).unwrap();
    assert_eq!(read(&late), parts(15));
    drop(late);
    let again = open(&disk.after_kill()).unwrap().latest().unwrap();
    for handle in [&new, &store.latest().unwrap(), &again] {
        assert_eq!((read(handle), handle.meta(), handle.info().epoch), (parts(20), &meta(20), 3));
        assert_eq!(handle.info().totals.parts, parts(20).len() as u64);
    }
    assert_eq!(files(&disk).len(), 1);
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    let content = |disk: &MemDisk| disk.content(&files(disk)[0]);
    let (one, two) = (MemDisk::new(), MemDisk::new());
    let sent = open(&one).unwrap().write(&meta(7), 1, parts(7)).unwrap();
    let store = open(&two).unwrap();
    let mut receiver = store.begin_receive(&meta(7), 1).unwrap();
    for part in sent.parts() {
        receiver.part(&part.unwrap()).unwrap();
    }
    let received = receiver.finish(sent.info().totals).unwrap();
    assert!(store.latest().is_none(), "a snapshot must not be current before it is installed");
    store.install(&received).unwrap();
    store.install(&received).unwrap();
    assert_eq!(content(&one), content(&two));
    assert_eq!(inspect(&two, &files(&two)[0]).unwrap(), *sent.info());
}

#[test]
fn a_snapshot_that_is_given_up_or_differs_leaves_nothing() {
    let disk = MemDisk::new();
    let store = open(&disk).unwrap();
    let mut receiver = store.begin_receive(&meta(7), 1).unwrap();
    receiver.part(b"x").unwrap();
    drop(receiver);
    assert!(files(&disk).is_empty());
    let mut receiver = store.begin_receive(&meta(7), 1).unwrap();
    receiver.part(b"x").unwrap();
    let sent = SnapshotTotals { parts: 1, bytes: 1, digest: 0 };
    let refused = receiver.finish(sent).unwrap_err();
    assert!(refused.to_string().contains("received"), "{refused}");
    assert!(files(&disk).is_empty());
}

#[test]
fn parts_have_a_bound_and_the_last_free_space_is_left_to_the_log() {
    let disk = MemDisk::new();
    let store = open(&disk).unwrap();
    let mut receiver = store.begin_receive(&meta(7), 1).unwrap();
    receiver.part(&vec![1; PART_BYTES_MAX]).unwrap();
    assert!(receiver.part(&vec![1; PART_BYTES_MAX + 1]).is_err());
    assert!(receiver.part(b"").is_err());
    disk.set_free_bytes(NEARLY_FULL_BYTES - 1);
    assert!(receiver.part(b"x").is_err());
    drop(receiver);
    assert!(store.write(&meta(9), 1, parts(9)).is_err());
    assert!(files(&disk).is_empty());
    let joining = SnapshotStore::open(Arc::new(disk.clone()), &data_dir(), None).unwrap();
    assert!(joining.begin_receive(&meta(7), 1).is_err(), "no cluster, no snapshot");
}

/// Writes three snapshots; the last one acknowledged is the answer.
fn life(disk: &MemDisk) -> Option<u64> {
    let store = open(disk).ok()?;
    let mut acknowledged = None;
    for index in [10, 20, 30] {
        let written = store.write(&meta(index), 1, parts(index));
        match written {
            Ok(_) => acknowledged = Some(index),
            Err(_) => break,
        }
    }
    acknowledged
}

fn recover(disk: &MemDisk, acknowledged: Option<u64>, what: &str) {
    let store = open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let latest = store.latest();
    let index = latest.as_ref().map(|handle| handle.meta().last_log_id.unwrap().index);
    let next = acknowledged.map_or(10, |index| index + 10);
    assert!(index == acknowledged || index == Some(next), "{what}: {index:?}, {acknowledged:?}");
    if let Some(handle) = latest {
        assert_eq!(read(&handle), parts(index.unwrap()), "{what}");
    }
    assert!(files(disk).len() <= 1, "{what}: {:?}", files(disk));
}

#[test]
fn a_power_cut_or_failure_at_any_operation_leaves_the_old_snapshot_or_the_new_one() {
    let disk = MemDisk::new();
    assert_eq!(life(&disk), Some(30));
    let cuts = (0..disk.operations()).map(Fault::PowerCut);
    let syncs = (0..disk.syncs()).map(Fault::Sync);
    let writes = (0..disk.writes()).map(Fault::Write);
    for fault in cuts.chain(syncs).chain(writes) {
        let disk = MemDisk::failing(fault);
        let acknowledged = life(&disk);
        assert!(disk.has_failed());
        recover(&disk.after_kill(), acknowledged, &format!("{fault:?}, killed"));
        for seed in 0..8 {
            let what = format!("{fault:?}, power cut {seed}");
            recover(&disk.after_power_cut(seed), acknowledged, &what);
        }
    }
}

#[test]
fn no_damage_of_a_snapshot_goes_unseen() {
    let disk = MemDisk::new();
    open(&disk).unwrap().write(&meta(30), 1, parts(30)).unwrap();
    let path = files(&disk).remove(0);
    let whole = disk.content(&path);
    let refuse = |content: Vec<u8>, what: String| {
        let disk = disk.after_kill();
        disk.set_content(&path, content);
        let refused = open(&disk).map(drop).expect_err(&what);
        let text = refused.to_string();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{what}: {text}");
        assert!(text.contains("offset") && text.contains(".snapshot"), "{what}: {text}");
    };
    let mut rng = SmallRng::seed_from_u64(1);
    let end = (whole.len() - 44) * 8..whole.len() * 8;
    let random = (0..300).map(|_| rng.random_range(0..whole.len() * 8));
    for bit in (0..120 * 8).chain(end).chain(random) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refuse(damaged, format!("bit {} of byte {}", bit % 8, bit / 8));
    }
    for cut in (0..whole.len()).step_by(whole.len() / 300) {
        refuse(whole[..cut].to_vec(), format!("cut at {cut}"));
    }
    refuse([&whole[..], b"x"].concat(), "a byte more".to_owned());
    refuse([&whole[..], &whole[..]].concat(), "twice".to_owned());
}

#[test]
fn a_snapshot_of_another_cluster_or_a_newer_format_is_refused() {
    let disk = MemDisk::new();
    open(&disk).unwrap().write(&meta(30), 1, parts(30)).unwrap();
    let open_as = |id| SnapshotStore::open(Arc::new(disk.clone()), &data_dir(), id).map(drop);
    for id in [Some(1), None] {
        let refused = open_as(id).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
    }
    let path = files(&disk).remove(0);
    let mut newer = disk.content(&path);
    newer[8] = 2;
    let header = u32::from_le_bytes(newer[12..16].try_into().unwrap()) as usize;
    let crc = crc32c::crc32c(&newer[..16 + header]).to_le_bytes();
    newer[16 + header..20 + header].copy_from_slice(&crc);
    disk.set_content(&path, newer);
    let refused = open_as(Some(CLUSTER_ID)).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 2, .. }), "{refused}");
}

#[test]
fn an_identity_is_whole_after_a_power_cut_at_any_operation() {
    let life = |disk: &MemDisk| -> Result<(u64, bool), StoreError> {
        let mut identity = Identity::open(Arc::new(disk.clone()), &data_dir(), &Random::new(1))?;
        let node_id = identity.node_id();
        let joined = identity.set_cluster_id(CLUSTER_ID).is_ok();
        Ok((node_id, joined))
    };
    let disk = MemDisk::new();
    life(&disk).unwrap();
    for at in 0..disk.operations() {
        let disk = MemDisk::failing(Fault::PowerCut(at));
        let before = life(&disk).ok();
        for seed in 0..8 {
            let disk: Arc<dyn Disk> = Arc::new(disk.after_power_cut(seed));
            // Another seed: an id that is made anew differs.
            let after = Identity::open(disk, &data_dir(), &Random::new(2)).unwrap();
            if let Some((node_id, joined)) = before {
                assert_eq!(after.node_id(), node_id, "cut at {at}");
                assert!(!joined || after.cluster_id() == Some(CLUSTER_ID), "cut at {at}");
            }
        }
    }
}
