//! What a leader takes for committed is on the disks of a majority of the voters, and synced: read back from a copy of
//! what each disk would hold if every power failed now.

use super::{Invariant, Moment, Violation};
use crate::{
    cluster::{DATA_DIR, NodeNow},
    disk::MemDisk,
};
use openraft::storage::{RaftLogReader, RaftLogStorage};
use rollcall_registry::{
    host::WriterMode,
    raft::{
        Fatal, Role, Standing,
        log::{LogOptions, LogStore},
        types::LogId,
    },
};
use std::{sync::Arc, time::Duration};

/// Opening a log takes its time: so often is enough to meet every state of it.
const EVERY: Duration = Duration::from_millis(700);

#[derive(Debug, Default)]
pub(super) struct Durable {
    looked: Duration,
}

impl Invariant for Durable {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if moment.now < self.looked + EVERY {
            return;
        }
        self.looked = moment.now;
        let leads = |node: &&NodeNow| node.status.role == Role::Leader && !node.status.changing;
        let Some(leader) = moment.nodes.iter().filter(leads).max_by_key(|n| n.status.term) else {
            return;
        };
        let Some(committed) = leader.status.committed else { return };
        let members = leader.status.members.iter();
        let voters = members.filter(|(_, member)| member.standing == Standing::Voter);
        let (mut holders, mut count) = (0, 0);
        for (id, _) in voters {
            let machine = moment.cluster.machines.iter().find(|m| m.body().node_id == *id);
            // One that lost its disk had the entry, for all that is known.
            let Some(machine) = machine.filter(|m| !m.body().damaged) else { return };
            let disk = machine.body().disk.clone();
            count += 1;
            holders += usize::from(holds(&disk, *id, committed));
        }
        if 2 * holders <= count {
            let name = leader.index + 1;
            let seen =
                format!("n{name} has {committed} committed: {holders} of {count} disks have it");
            out.push(Violation::new("what is committed is on the disks of a majority", seen));
        }
    }
}

/// Whether the log on this disk has the entry, counting only what is synced.
fn holds(disk: &MemDisk, node_id: u64, entry: LogId) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found = runtime.block_on(read(disk.synced(), node_id, entry));
    found.unwrap_or(false)
}

async fn read(disk: MemDisk, node_id: u64, entry: LogId) -> std::io::Result<bool> {
    let options = LogOptions {
        dir: DATA_DIR.into(),
        node_id,
        cluster_id: None,
        must_exist: true,
        writer: WriterMode::Task,
        tail_bytes_max: 4096,
    };
    let mut log = LogStore::open(Arc::new(disk), options, Fatal::default())?;
    let state = log.get_log_state().await?;
    if state.last_purged_log_id.is_some_and(|purged| purged.index >= entry.index) {
        return Ok(true);
    }
    let range = entry.index..=entry.index;
    let entries = log.get_log_reader().await.try_get_log_entries(range).await?;
    Ok(entries.first().is_some_and(|found| found.log_id == entry))
}
