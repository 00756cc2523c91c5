//! What a heartbeat comes to. The leader decides; a follower passes on and acknowledges when the leader has.

use super::{
    Leases,
    checkpoint::Clear,
    table::{Decision, Fence, Renewal},
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{sync::oneshot, time::timeout};

/// Longest wait for an undecided expiry or for a clear; beyond it the beat is not acknowledged.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Answer to an acknowledged beat.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct BeatAnswer {
    /// Leases that are not known: their owners must register again.
    pub reregister: Vec<u64>,
    /// Leases against which a newer owner or a removal stands.
    pub fenced: Vec<(u64, Fence)>,
}

/// What a beat has come to so far, under which leadership.
struct Renewed {
    term: u64,
    arrived: u64,
    renewal: Renewal,
}

/// The beat was not acknowledged; it counts for nothing and should go to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no leader acknowledged the beat")]
pub struct NotAcknowledged;

impl Leases {
    /// Takes the beats of one message, here if this node leads, else through the leader. The time of arrival is that
    /// of this call; the answer may come later.
    pub fn beat(
        &self,
        handles: Vec<u64>,
    ) -> impl Future<Output = Result<BeatAnswer, NotAcknowledged>> + Send + 'static {
        let leases = self.clone();
        // Renewed before anything is awaited: load elsewhere cannot make a punctual beat late.
        let renewal = self.renew_here(&handles);
        async move {
            match renewal {
                Some(renewed) => leases.settle(renewed).await,
                None => leases.0.relay.ask(handles).await,
            }
        }
    }

    /// Renews as the leader; `None` where this node does not lead.
    fn renew_here(&self, handles: &[u64]) -> Option<Renewed> {
        let term = self.reign_with_table()?;
        let arrived = self.0.table.now();
        Some(Renewed { term, arrived, renewal: self.renew(handles, arrived) })
    }

    fn renew(&self, handles: &[u64], arrived: u64) -> Renewal {
        let view = &self.0.view;
        let renewal =
            self.0.table.renew(handles, arrived, |handle| Fence::of(&view.load().state, handle));
        let lost = renewal.reregister.len() + renewal.fenced.len() + renewal.undecided.len();
        let stats = &self.0.stats;
        stats.renewed.fetch_add((handles.len() - lost) as u64, Ordering::Relaxed);
        stats.reregister.fetch_add(renewal.reregister.len() as u64, Ordering::Relaxed);
        stats.fenced.fetch_add(renewal.fenced.len() as u64, Ordering::Relaxed);
        renewal
    }

    /// Waits for what is undecided and for committed clears, then acknowledges if this node still may.
    async fn settle(&self, renewed: Renewed) -> Result<BeatAnswer, NotAcknowledged> {
        let Renewed { term, arrived, mut renewal } = renewed;
        if !renewal.undecided.is_empty() {
            let handles: Vec<u64> = renewal.undecided.iter().map(|(handle, _)| *handle).collect();
            timeout(WAIT_MAX, decided(std::mem::take(&mut renewal.undecided)))
                .await
                .map_err(|_| NotAcknowledged)?;
            let again = self.renew(&handles, arrived);
            if !again.undecided.is_empty() {
                return Err(NotAcknowledged);
            }
            renewal.reregister.extend(again.reregister);
            renewal.fenced.extend(again.fenced);
            renewal.clear.extend(again.clear);
        }
        if !renewal.clear.is_empty() {
            let (done, cleared) = oneshot::channel();
            let handles = std::mem::take(&mut renewal.clear);
            let clear = Clear { term, handles, done };
            self.0.clears.try_send(clear).map_err(|_| NotAcknowledged)?;
            match timeout(WAIT_MAX, cleared).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false) | Err(_)) | Err(_) => return Err(NotAcknowledged),
            }
        }
        if !self.may_acknowledge(term) {
            return Err(NotAcknowledged);
        }
        Ok(BeatAnswer { reregister: renewal.reregister, fenced: renewal.fenced })
    }

    /// Beats that a follower passed on: acknowledged only by a leader, never passed on again.
    pub(super) fn beat_on_leader(
        &self,
        handles: Vec<u64>,
    ) -> impl Future<Output = Result<BeatAnswer, NotAcknowledged>> + Send + 'static {
        let leases = self.clone();
        let renewal = self.renew_here(&handles);
        async move {
            match renewal {
                Some(renewed) => leases.settle(renewed).await,
                None => Err(NotAcknowledged),
            }
        }
    }
}

async fn decided(undecided: Vec<(u64, Decision)>) {
    for (_, mut decision) in undecided {
        // The sender is dropped when the expiry is decided.
        while decision.changed().await.is_ok() {}
    }
}
