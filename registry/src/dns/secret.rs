//! The leader gives the cluster the secret that signs DNS cookies, where it has none yet.

use crate::{host::Random, raft::Replica, view::View};
use rollcall_core::{Command, secret::ClusterSecret};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A proposal is given up after this, and made again.
const DEADLINE: Duration = Duration::from_secs(2);
/// A new leader looks again after this.
const LOOK: Duration = Duration::from_secs(1);

/// Returns when the cluster has a secret, or when it shall stop.
pub(super) async fn keep(replica: Replica, view: View, random: Random, stop: CancellationToken) {
    let mut leadership = replica.leadership();
    loop {
        if view.load().state.secret().is_some() {
            return;
        }
        let reign = leadership.borrow_and_update().reign.map(|reign| reign.term);
        if let Some(term) = reign {
            let command = Command::PutClusterSecret(ClusterSecret::new(random.secret_bits()));
            if let Err(error) = replica.propose_in_term(term, command, DEADLINE).await {
                tracing::debug!(%error, "propose the secret of the cluster");
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = tokio::time::timeout(LOOK, leadership.changed()) => {
                if let Ok(Err(_)) = changed {
                    return;
                }
            }
        }
    }
}
