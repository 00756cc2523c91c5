//! The Raft log on disks that lose power, fail and rot: what was acknowledged is found again, exactly, or the
//! log refuses to open and says why.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rollcall_registry::disk::{NEARLY_FULL_BYTES, StdDisk, StoreError, lock_data_dir};
use rollcall_registry::host::WriterMode;
use rollcall_registry::raft::log::{Fatal, LogOptions, LogStore};
use rollcall_registry::raft::types::Vote;

use crate::workload::{
    CLUSTER_ID, History, Model, append, append_durably, data_dir, log_path, open_log, options,
    proposal, run,
};
use rollcall_sim_tests::disk::{Fault, MemDisk};

/// Runs one life of a node on a runtime of its own; its end is the death of all its tasks.
fn live<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(life)
}

/// Opens what a crash left, compares, and shows that the log still works.
fn recover(disk: &MemDisk, history: &History, what: &str) {
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = Model::of(&mut log).await.unwrap();
        history.check(&found).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut next = History::new(found);
        run(&mut log, &mut next, 99, 5).await;
        assert!(!next.failed, "{what}: the recovered log does not work");
        log.close().await.unwrap();
        let (mut log, _) = open_log(disk.clone()).unwrap();
        assert_eq!(Model::of(&mut log).await.unwrap(), *next.acknowledged(), "{what}");
    });
}

/// One life with a workload; `None` where not even opening came to its end.
fn life(disk: &MemDisk, seed: u64, steps: usize) -> Option<History> {
    live(async {
        let (mut log, fatal) = open_log(disk.clone()).ok()?;
        let mut history = History::new(Model::default());
        run(&mut log, &mut history, seed, steps).await;
        assert_eq!(history.failed, fatal.get().is_some(), "the failure was not reported");
        if history.failed {
            assert!(log.save_vote(&Vote::new(9999, 1)).await.is_err());
        }
        Some(history)
    })
}

#[test]
fn what_was_written_is_there_after_a_clean_close_and_after_a_kill() {
    for seed in 0..8 {
        let disk = MemDisk::new();
        let history = life(&disk, seed, 120).unwrap();
        assert!(!history.failed);
        recover(&disk.after_kill(), &history, &format!("seed {seed}, killed"));
        live(async {
            let (log, _) = open_log(disk.clone()).unwrap();
            log.close().await.unwrap();
        });
        recover(&disk, &history, &format!("seed {seed}, closed"));
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_acknowledged() {
    let mut cuts = 0;
    for seed in 0..3 {
        let disk = MemDisk::new();
        life(&disk, seed, 60).unwrap();
        let operations = disk.operations();
        assert!(operations > 100, "the workload makes only {operations} operations");
        for at in 0..operations {
            let disk = MemDisk::failing(Fault::PowerCut(at));
            let history = life(&disk, seed, 60).unwrap_or_else(|| History::new(Model::default()));
            assert!(disk.has_failed(), "the power was not cut at {at}");
            let what = format!("seed {seed}, power cut at operation {at}");
            recover(&disk.after_power_cut(at * 31 + seed), &history, &what);
            cuts += 1;
        }
    }
    assert!(cuts > 300, "{cuts}");
}

#[test]
fn repeated_power_cuts_during_recovery_lose_nothing() {
    let disk = MemDisk::new();
    let history = life(&disk, 5, 80).unwrap();
    for round in 0..60 {
        // What survives is cut off again while it is being repaired.
        let torn = disk.after_power_cut(round);
        torn.arm(Fault::PowerCut(round % 20));
        live(async { drop(open_log(torn.clone())) });
        recover(&torn.after_power_cut(round + 1), &history, &format!("round {round}"));
    }
}

#[test]
fn after_a_failed_fsync_or_write_nothing_is_acknowledged_or_tried_again() {
    let (syncs, writes) = {
        let disk = MemDisk::new();
        life(&disk, 3, 150).unwrap();
        (disk.syncs(), disk.writes())
    };
    let sync_faults = (0..syncs).map(Fault::Sync);
    let write_faults = (0..writes).step_by(5).map(Fault::Write);
    let mut failures = 0;
    for (number, fault) in (0..).zip(sync_faults.chain(write_faults)) {
        let disk = MemDisk::failing(fault);
        let history = life(&disk, 3, 150).unwrap_or_else(|| History::new(Model::default()));
        assert!(disk.has_failed(), "{fault:?} did not strike");
        assert_eq!(disk.operations_after_failure(), 0, "{fault:?}: the disk was used again");
        recover(&disk.after_kill(), &history, &format!("{fault:?}, killed"));
        recover(&disk.after_power_cut(number), &history, &format!("{fault:?}, power cut"));
        failures += 1;
    }
    assert!(failures >= 100, "only {failures} failures were injected");
}

/// Opens a damaged file: exactly what was acknowledged, or a refusal that names the file.
fn judge(disk: &MemDisk, history: &History, what: &str) -> bool {
    live(async {
        match open_log(disk.clone()) {
            Ok((mut log, _)) => {
                let found = Model::of(&mut log).await.unwrap();
                assert_eq!(found, *history.acknowledged(), "{what}: silent divergence");
                true
            }
            Err(error) => {
                let refused = matches!(
                    error,
                    StoreError::Damaged { .. }
                        | StoreError::NewerFormat { .. }
                        | StoreError::Foreign { .. }
                );
                assert!(refused, "{what}: {error}");
                assert!(error.to_string().contains("raft.log"), "{what}: {error}");
                false
            }
        }
    })
}

/// Two files with the same content: as a kill leaves it, and closed in order.
fn victims() -> (History, Vec<(&'static str, Vec<u8>)>) {
    let disk = MemDisk::new();
    let mut history = live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        let mut history = History::new(Model::default());
        run(&mut log, &mut history, 11, 80).await;
        // The last commit, too, is one that was acknowledged.
        log.save_vote(&Vote::new(500, 2)).await.unwrap();
        history
    });
    assert!(!history.failed);
    let killed = disk.after_kill();
    let content = killed.content(&log_path());
    live(async {
        let (mut log, _) = open_log(killed.clone()).unwrap();
        history = History::new(Model::of(&mut log).await.unwrap());
        log.close().await.unwrap();
    });
    (history, vec![("killed", content), ("closed", killed.content(&log_path()))])
}

fn with_content(content: Vec<u8>) -> MemDisk {
    let disk = MemDisk::new();
    live(async { drop(open_log(disk.clone()).unwrap()) });
    let disk = disk.after_kill();
    disk.set_content(&log_path(), content);
    disk
}

#[test]
fn a_flipped_bit_is_harmless_or_refused() {
    let (history, victims) = victims();
    let mut rng = SmallRng::seed_from_u64(1);
    for (name, content) in victims {
        let mut opened = 0;
        let random = (0..150).map(|_| rng.random_range(0..content.len() * 8));
        // All of our header, and all of the database's, which it does not checksum as a whole.
        let headers = (0..24).chain(512..524).chain(1024..1036).map(|byte| byte * 8 + byte % 8);
        let database = (4096..4096 + 320).step_by(2).map(|byte| byte * 8 + byte % 8);
        let bits: Vec<usize> = random.chain(headers).chain(database).collect();
        for bit in &bits {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let what = format!("{name}: bit {} of byte {}", bit % 8, bit / 8);
            opened += usize::from(judge(&with_content(damaged), &history, &what));
        }
        println!("{name}: {} bits flipped, {opened} harmless", bits.len());
        assert!(opened < bits.len(), "{name}: no flip was noticed");
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let (history, victims) = victims();
    for (name, content) in victims {
        let mut opened = 0;
        let step = content.len() / 150;
        let cuts = (0..content.len()).step_by(step).chain([1, 511, 512, 4095, 4096, 4097, 8192]);
        for cut in cuts {
            let disk = with_content(content[..cut].to_vec());
            opened += usize::from(judge(&disk, &history, &format!("{name}: cut at {cut}")));
        }
        println!("{name}: {opened} truncations were harmless");
    }
}

#[test]
fn overwritten_blocks_are_harmless_or_refused() {
    let (history, victims) = victims();
    let mut rng = SmallRng::seed_from_u64(2);
    for (name, content) in victims {
        for round in 0..60 {
            let mut damaged = content.clone();
            let block = rng.random_range(0..content.len() / 512) * 512;
            let other = rng.random_range(0..content.len() / 512) * 512;
            // Zeros, or a block from elsewhere: what a misdirected write leaves.
            let source =
                if round % 2 == 0 { vec![0; 512] } else { content[other..][..512].to_vec() };
            damaged[block..][..512].copy_from_slice(&source);
            judge(&with_content(damaged), &history, &format!("{name}: block at {block}"));
        }
    }
}

#[test]
fn a_lost_acknowledged_commit_is_noticed_even_where_the_database_would_go_back() {
    // The newest commit of a killed node is damaged: the database falls back to the one before.
    let disk = MemDisk::new();
    let marker = vec![0xc7; 3000];
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        append_durably(&mut log, vec![proposal(1, 1, vec![1; 100])]).await.unwrap();
        append_durably(&mut log, vec![proposal(1, 2, marker.clone())]).await.unwrap();
    });
    let disk = disk.after_kill();
    let mut content = disk.content(&log_path());
    let at = content.windows(100).position(|window| window == &marker[..100]).unwrap();
    content[at + 50] ^= 1;
    disk.set_content(&log_path(), content);
    let refused = live(async { open_log(disk.clone()).map(drop).unwrap_err() });
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{text}");
    assert!(text.contains("/data/raft.log") && text.contains("commit"), "{text}");
}

#[test]
fn only_closing_in_order_writes_when_the_log_goes_away() {
    let disk = MemDisk::new();
    life(&disk, 4, 20).unwrap();
    let operations = || disk.operations();
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        append_durably(&mut log, vec![]).await.unwrap();
        let before = operations();
        drop(log);
        tokio::task::yield_now().await;
        assert_eq!(operations(), before, "a crash became a clean shutdown");
        let (log, _) = open_log(disk.clone()).unwrap();
        let before = operations();
        log.close().await.unwrap();
        assert!(operations() > before);
    });
}

#[test]
fn the_vote_is_durable_when_saving_it_returns() {
    let disk = MemDisk::new();
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        for term in 1..20 {
            let vote = Vote::new(term, 3);
            log.save_vote(&vote).await.unwrap();
            let (mut after, _) = open_log(disk.after_power_cut(term)).unwrap();
            assert_eq!(Model::of(&mut after).await.unwrap().vote, Some(vote));
        }
    });
}

#[tokio::test]
async fn concurrent_appends_share_an_fsync() {
    let disk = MemDisk::new();
    disk.set_sync_delay(Duration::from_millis(2));
    let log_options = options(&data_dir(), WriterMode::Thread);
    let log = LogStore::open(Arc::new(disk.clone()), log_options, Fatal::default());
    let mut log = log.unwrap();
    let before = disk.syncs();
    let mut pending = Vec::new();
    for index in 1..=1000 {
        pending.push(append(&mut log, vec![proposal(1, index, vec![7; 200])]).await.unwrap());
    }
    for receiver in pending {
        receiver.await.unwrap().unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!(syncs <= 100, "{syncs} fsyncs for 1000 appends");
    assert_eq!(log.stats().entries, 1000);
    assert_eq!(log.stats().commits, syncs);
}

#[test]
fn the_committed_index_forces_no_fsync_and_is_kept_by_the_next_one() {
    let disk = MemDisk::new();
    let (first, second) = (proposal(1, 1, vec![1]), proposal(1, 2, vec![2]));
    let committed = Some(first.log_id);
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        append_durably(&mut log, vec![first]).await.unwrap();
        let syncs = disk.syncs();
        for _ in 0..50 {
            log.save_committed(committed).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(disk.syncs(), syncs);
        append_durably(&mut log, vec![second]).await.unwrap();
    });
    live(async {
        let (mut log, _) = open_log(disk.after_power_cut(1)).unwrap();
        assert_eq!(log.read_committed().await.unwrap(), committed);
    });
}

#[test]
fn a_long_purge_goes_in_steps_and_gives_its_space_back() {
    let disk = MemDisk::new();
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        let mut largest = 0;
        for round in 0..6 {
            let first = round * 30_000 + 1;
            for start in (first..first + 30_000).step_by(3000) {
                let entries = (start..start + 3000).map(|i| proposal(1, i, vec![3; 40])).collect();
                append_durably(&mut log, entries).await.unwrap();
            }
            let commits = log.stats().commits;
            log.purge(proposal(1, first + 29_990, Vec::new()).log_id).await.unwrap();
            while log.stats().commits < commits + 3 {
                tokio::task::yield_now().await;
            }
            if round == 2 {
                largest = log.stats().file_bytes;
            }
        }
        let now = log.stats().file_bytes;
        assert!(now <= largest * 3 / 2, "the file grew from {largest} to {now} bytes");
        let found = Model::of(&mut log).await.unwrap();
        assert_eq!(found.entries.len(), 9);
    });
    live(async {
        let (mut log, _) = open_log(disk.after_kill()).unwrap();
        assert_eq!(Model::of(&mut log).await.unwrap().entries.len(), 9);
    });
}

#[test]
fn a_nearly_full_disk_is_told_and_so_is_its_recovery() {
    let disk = MemDisk::new();
    live(async {
        let (mut log, _) = open_log(disk.clone()).unwrap();
        assert!(!log.is_nearly_full());
        disk.set_free_bytes(NEARLY_FULL_BYTES - 1);
        append_durably(&mut log, vec![proposal(1, 1, vec![1])]).await.unwrap();
        assert!(log.is_nearly_full());
        assert_eq!(Model::of(&mut log).await.unwrap().entries.len(), 1, "reads go on");
        disk.set_free_bytes(NEARLY_FULL_BYTES);
        assert!(!log.is_nearly_full());
    });
}

#[test]
fn a_log_of_another_node_or_cluster_or_a_lost_one_is_refused() {
    let disk = MemDisk::new();
    let open = |change: fn(&mut LogOptions)| {
        let mut options = options(&data_dir(), WriterMode::Task);
        change(&mut options);
        LogStore::open(Arc::new(disk.clone()), options, Fatal::default()).map_err(Box::new)
    };
    live(async {
        assert!(matches!(*open(|o| o.must_exist = true).unwrap_err(), StoreError::Missing { .. }));
        let log = open(|_| {}).unwrap();
        log.close().await.unwrap();
        // Known to the identity, and not to the log yet.
        let log = open(|o| o.cluster_id = Some(CLUSTER_ID)).unwrap();
        log.close().await.unwrap();
        let refused = open(|o| o.cluster_id = Some(1)).unwrap_err();
        assert!(matches!(*refused, StoreError::Foreign { .. }), "{refused}");
        let log = open(|_| {}).unwrap();
        log.set_cluster_id(CLUSTER_ID).await.unwrap();
        log.close().await.unwrap();
        assert!(log.set_cluster_id(CLUSTER_ID).await.is_err(), "a closed log took a write");
        let other_node = open(|o| o.node_id = 5).unwrap_err();
        assert!(matches!(*other_node, StoreError::Foreign { .. }), "{other_node}");
        let other_cluster = open(|o| o.cluster_id = Some(1)).unwrap_err();
        assert!(matches!(*other_cluster, StoreError::Foreign { .. }), "{other_cluster}");
        open(|o| o.cluster_id = Some(CLUSTER_ID)).unwrap();
    });
}

#[tokio::test]
async fn the_log_works_on_the_file_system_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let held = lock_data_dir(&StdDisk, &data).unwrap();
    assert!(matches!(lock_data_dir(&StdDisk, &data), Err(StoreError::InUse { .. })));
    let open = || {
        let options = options(&data, WriterMode::Thread);
        LogStore::open(Arc::new(StdDisk), options, Fatal::default()).unwrap()
    };
    let mut log = open();
    let mut history = History::new(Model::default());
    run(&mut log, &mut history, 21, 100).await;
    log.close().await.unwrap();
    let mut log = open();
    assert_eq!(Model::of(&mut log).await.unwrap(), *history.acknowledged());
    drop(held);
}
