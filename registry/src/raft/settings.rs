//! The settings of consensus: every interval, deadline and bound, with its default.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

/// Largest message that a peer accepts: one command, or one batch of entries, and its frame.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How the nodes agree. The defaults suit machines in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// The leader shows itself this often.
    pub heartbeat: Duration,
    /// An election starts at the earliest this long after the leader's lease has run out.
    pub election_timeout_min: Duration,
    /// An election starts at the latest this long after the leader's lease has run out; the lease is as long.
    pub election_timeout_max: Duration,
    /// A TCP connection to a peer must stand within this.
    pub connect_timeout: Duration,
    /// A peer must answer within this.
    pub rpc_timeout: Duration,
    /// A connection is asked for a sign of life this often, and closed when none comes within the same time.
    pub keep_alive: Duration,
    /// A snapshot must be sent and installed within this.
    pub snapshot_timeout: Duration,
    /// A snapshot is made when this many entries were applied since the last one.
    pub snapshot_entries: u64,
    /// So many entries stay in the log after a snapshot, for followers that lag a little.
    pub kept_entries: u64,
    /// A learner is promoted when it lags by no more entries than this.
    pub catch_up_entries: u64,
    /// At most this many commands wait for their outcome on one node; more are refused as overload.
    pub in_flight_max: usize,
    /// At most this many readers wait for one read index; more are refused as overload.
    pub waiting_reads_max: usize,
    /// Largest encoded command, in bytes.
    pub command_bytes_max: usize,
    /// A follower that nobody reads from asks for a read index this often, to know how stale it is.
    pub freshness_interval: Duration,
    /// How many events the journal of the state keeps. Must be equal on all nodes.
    pub journal_events: usize,
    /// `checks.allow_loopback`, as the checks have it. Nothing of consensus, but it must be equal on all nodes: peers refuse
    /// each other where it is not.
    pub allow_loopback: bool,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            connect_timeout: Duration::from_millis(500),
            rpc_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(1),
            snapshot_timeout: Duration::from_secs(600),
            snapshot_entries: 20_000,
            kept_entries: 5_000,
            catch_up_entries: 500,
            in_flight_max: 4096,
            waiting_reads_max: 16_384,
            command_bytes_max: 12 << 20,
            freshness_interval: Duration::from_millis(250),
            journal_events: 100_000,
            allow_loopback: false,
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("raft settings: {0}")]
pub struct InvalidSettings(String);

impl RaftSettings {
    /// The longest outage after a leader's death: the others wait for its lease, then for a timeout.
    pub fn outage_max(&self) -> Duration {
        2 * self.election_timeout_max + Duration::from_millis(300)
    }

    /// How long a leader may trust that it still is the leader, from its last contact with a quorum.
    pub fn leader_lease(&self) -> Duration {
        self.election_timeout_max
    }

    pub(crate) fn config(&self) -> Result<Arc<Config>, InvalidSettings> {
        if self.snapshot_entries == 0 || self.in_flight_max == 0 || self.waiting_reads_max == 0 {
            let text = "snapshot_entries, in_flight_max and waiting_reads_max must be at least 1";
            return Err(InvalidSettings(text.to_owned()));
        }
        let config = Config {
            cluster_name: "rollcall".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            install_snapshot_timeout: millis(self.snapshot_timeout),
            // Snapshots are triggered by the replica.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.kept_entries,
            purge_batch_size: (self.kept_entries / 4).clamp(1, 1000),
            // Must exceed what may lie between two snapshots, or a lagging follower gets one after the other.
            replication_lag_threshold: 2 * self.snapshot_entries + self.kept_entries,
            enable_pre_vote: Some(true),
            // A leader that restarts has an empty lease table: it must be elected again.
            enable_leader_restore: Some(false),
            removed_leader_step_down: StepDownPolicy::After(millis(self.heartbeat)),
            backoff: "200ms".to_owned(),
            ..Config::default()
        };
        let config = config.validate().map_err(|error| InvalidSettings(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = RaftSettings::default().config().unwrap();
        assert_eq!(config.election_timeout_max, 600);
        assert!(config.replication_lag_threshold > RaftSettings::default().snapshot_entries);
    }

    #[test]
    fn an_election_faster_than_the_heartbeat_is_refused() {
        let settings = RaftSettings {
            election_timeout_min: Duration::from_millis(50),
            ..RaftSettings::default()
        };
        let error = settings.config().unwrap_err().to_string();
        assert!(error.contains("election"), "{error}");
    }
}
