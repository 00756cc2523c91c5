//! What readers see: the state after the last applied batch, behind one atomic pointer.
//!
//! Every answer, also one over many services, is made from one [`Seen`] and so belongs to exactly one revision.
//! Readers never wait for writers; the one writer is the state machine, which calls [`View::publish`].

use crate::raft::Published;
use arc_swap::{ArcSwap, Guard};
use rollcall_core::State;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The state as of one applied entry.
#[derive(Debug)]
pub struct Seen {
    /// The catalogue.
    pub state: State,
    /// The log entry after which it looked so.
    pub applied_index: u64,
}

/// Follows what is published, in the thread that applies: it must be quick and must not wait.
pub type Follower = Box<dyn Fn(&Published) + Send + Sync>;

/// Cheap handle to what readers see.
#[derive(Clone)]
pub struct View {
    seen: Arc<ArcSwap<Seen>>,
    revision: Arc<watch::Sender<u64>>,
    /// Held while a batch is shown: followers see every batch, in order, from their first on.
    followers: Arc<Mutex<Vec<Follower>>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("revision", &*self.revision.borrow()).finish_non_exhaustive()
    }
}

impl View {
    /// A view of an empty state.
    pub fn new(journal_limit: usize) -> Self {
        let seen = Seen { state: State::new(journal_limit), applied_index: 0 };
        Self {
            seen: Arc::new(ArcSwap::from_pointee(seen)),
            revision: Arc::new(watch::channel(0).0),
            followers: Arc::default(),
        }
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names those who follow every batch, in place of earlier ones. They are shown what there is at once, as if it had
    /// been restored, because batches may have been applied before they came.
    pub fn follow(&self, followers: Vec<Follower>) {
        let mut current = self.followers();
        *current = followers;
        let seen = self.seen();
        let (state, applied_index) = (seen.state.clone(), seen.applied_index);
        let published = Published { state, applied_index, changes: Vec::new(), restored: true };
        current.iter().for_each(|follower| follower(&published));
    }

    /// Lets the followers go, and what they hold.
    pub fn forsake(&self) {
        self.followers().clear();
    }

    /// Shows a batch, then tells the followers, then wakes who waits for its revision.
    pub fn publish(&self, published: Published) {
        let followers = self.followers();
        let seen = Seen { state: published.state.clone(), applied_index: published.applied_index };
        self.seen.store(Arc::new(seen));
        followers.iter().for_each(|follower| follower(&published));
        self.revision.send_replace(published.state.revision());
    }

    /// The state for a short look: do not hold it across an await.
    pub fn load(&self) -> Guard<Arc<Seen>> {
        self.seen.load()
    }

    /// The state for a longer look.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.load_full()
    }

    /// Waits until `revision` is visible. The caller brings the deadline.
    pub async fn reached(&self, revision: u64) {
        let mut changes = self.revision.subscribe();
        // The sender lives as long as this view: waiting cannot fail.
        let _ = changes.wait_for(|visible| *visible >= revision).await;
    }

    /// The visible revision, as it grows.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
