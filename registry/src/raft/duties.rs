//! What a replica does by itself: snapshots when enough was applied, finishing what a former leader left half
//! done, handing over when the disk fills up, telling when openraft has failed.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::errors::AdminError;
use super::join;
use super::shared::Shared;
use super::snapshot::SnapshotHandle;

/// How often the slow duties are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// A leader with a full disk hands over at most once in so many rounds: the others may be no better off.
const HAND_OVER_PAUSE_ROUNDS: u32 = 10;

pub(crate) fn spawn(shared: &Arc<Shared>) {
    shared.tasks.spawn(campaign_after_quiet(Arc::clone(shared)));
    shared.tasks.spawn(watch_for_failure(Arc::clone(shared)));
    shared.tasks.spawn(make_snapshots(Arc::clone(shared)));
    shared.tasks.spawn(slow_rounds(Arc::clone(shared)));
    shared.tasks.spawn(join::announce(Arc::clone(shared)));
}

/// Keeps a restarted node from campaigning while it is quiet. A node that is the only voter need not wait.
async fn campaign_after_quiet(shared: Arc<Shared>) {
    let Some(until) = shared.quiet_until else { return };
    let mut metrics = shared.raft.server_metrics();
    let alone = async {
        loop {
            let voters: Vec<u64> = metrics.borrow_watched().membership_config.voter_ids().collect();
            if voters == [shared.node_id()] || metrics.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        () = alone => {}
        () = tokio::time::sleep_until(until) => {}
    }
    shared.raft.runtime_config().elect(true);
}

/// Reports the error that made openraft stop.
async fn watch_for_failure(shared: Arc<Shared>) {
    let mut metrics = shared.raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        if let Err(error) = state {
            if !shared.stop.is_cancelled() {
                shared.fatal.report(&format!("raft stopped: {error}"));
            }
            return;
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() {
                if !shared.stop.is_cancelled() {
                    shared.fatal.report("raft stopped without saying why");
                }
                return;
            },
        }
    }
}

async fn make_snapshots(shared: Arc<Shared>) {
    let mut applied = shared.output.applied();
    let latest = shared.snapshots.latest();
    let mut asked_at = latest.and_then(|handle| handle.meta().last_log_id).map_or(0, |id| id.index);
    loop {
        let index = applied.borrow_and_update().map_or(0, |last| last.index);
        if index >= asked_at.saturating_add(shared.settings.snapshot_entries) {
            asked_at = index;
            if shared.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}

/// Makes a snapshot of at least what is applied now.
pub(crate) async fn snapshot_now(shared: &Arc<Shared>) -> Result<SnapshotHandle, AdminError> {
    let index = shared.output.applied_index();
    if index == 0 {
        return Err(AdminError::Refused("nothing is applied yet".to_owned()));
    }
    let covers =
        |handle: &SnapshotHandle| handle.meta().last_log_id.is_some_and(|last| last.index >= index);
    let mut metrics = shared.raft.metrics();
    let wait = async {
        loop {
            if let Some(handle) = shared.snapshots.latest().filter(covers) {
                return Ok(handle);
            }
            let known = metrics.borrow_watched().snapshot;
            // Dropped by openraft while another one is being built: asked again after that one.
            shared.raft.trigger().snapshot().await.map_err(|_| AdminError::Stopped)?;
            // The request itself moves the metrics: only another snapshot is news, or this would spin while one waits
            // for space.
            let another = metrics.wait_until(|metrics| metrics.snapshot != known);
            if let Ok(Err(_)) = tokio::time::timeout(ROUND, another).await {
                return Err(AdminError::Stopped);
            }
        }
    };
    let timeout = shared.settings.snapshot_timeout;
    let stopped = shared.stop.cancelled();
    tokio::select! {
        biased;
        () = stopped => Err(AdminError::Stopped),
        result = tokio::time::timeout(timeout, wait) => result.unwrap_or_else(|_| {
            Err(AdminError::Unknown(format!("the snapshot was not ready in {timeout:?}")))
        }),
    }
}

async fn slow_rounds(shared: Arc<Shared>) {
    let mut pause = 0_u32;
    let mut joint_since = None;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        if !shared.raft.is_leader() {
            (pause, joint_since) = (0, None);
            continue;
        }
        let metrics = shared.metrics();
        let committed = &metrics.committed_membership_config;
        let joint = (committed.get_joint_config().len() > 1).then(|| *committed.log_id());
        // Twice the same: nobody is about to finish it.
        if joint.is_some() && joint == joint_since {
            shared.finish_joint().await;
        }
        joint_since = joint;
        pause = pause.saturating_sub(1);
        if pause == 0 && shared.log.is_nearly_full() {
            pause = HAND_OVER_PAUSE_ROUNDS;
            tracing::error!("the disk is nearly full: writes are refused, the lead is handed over");
            if let Err(error) = shared.hand_over(None).await {
                tracing::warn!(%error, "hand the lead over because the disk is nearly full");
            }
        }
    }
}
