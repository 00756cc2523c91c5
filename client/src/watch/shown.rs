//! What the following task of a watch and its readers share: the picture, and the updates that wait to be read.

use super::{Picture, Update};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// Updates that wait for a reader; one more, and they become one [`Update::Reset`].
const UPDATES: usize = 256;
/// Instances that the services in waiting updates hold together. Each change of a large service holds a list of its
/// own: without this a reader that never comes would cost 256 lists of 20,000.
const HELD: usize = 200_000;

#[derive(Debug)]
pub(super) struct Shown {
    picture: watch::Sender<Arc<Picture>>,
    backlog: Mutex<Backlog>,
    more: Notify,
    standby: Mutex<Standby>,
}

#[derive(Debug, Default)]
struct Backlog {
    updates: VecDeque<Update>,
    held: usize,
}

/// What is shown when no registry answers.
#[derive(Debug, Default)]
struct Standby {
    picture: Option<Arc<Picture>>,
    revealed: bool,
}

impl Shown {
    pub(super) fn new(picture: watch::Sender<Arc<Picture>>) -> Self {
        Self { picture, backlog: Mutex::default(), more: Notify::new(), standby: Mutex::default() }
    }

    /// Shows a picture. One that stands in for the registry shows its services only once it was revealed.
    pub(super) fn show(&self, picture: Picture) {
        let hidden = picture.origin.is_stand_in() && !self.standby().revealed;
        let picture = if hidden { without_services(&picture) } else { picture };
        self.picture.send_replace(Arc::new(picture));
    }

    /// Keeps what stands in for the registry, without showing it yet.
    pub(super) fn set_standby(&self, picture: Picture) {
        self.standby().picture = Some(Arc::new(picture));
    }

    /// No registry has answered in time: shows what stands in for it, where there is something. Returns it the first
    /// time.
    pub(super) fn reveal(&self) -> Option<Arc<Picture>> {
        if self.picture.borrow().complete {
            return None;
        }
        let mut standby = self.standby();
        let picture = standby.picture.take()?;
        standby.revealed = true;
        drop(standby);
        let connection = Arc::clone(&self.picture.borrow());
        let picture = Arc::new(Picture {
            connected: connection.connected,
            problem: connection.problem.clone(),
            ..Picture::clone(&picture)
        });
        tracing::warn!(origin = ?picture.origin, "no registry answers, go on with what is known");
        self.picture.send_replace(Arc::clone(&picture));
        self.push(Update::Reset(Arc::clone(&picture)), || Arc::clone(&picture));
        Some(picture)
    }

    /// Whether the picture that stands in is shown.
    pub(super) fn is_revealed(&self) -> bool {
        self.standby().revealed
    }

    /// Keeps an update for the reader. Where too many wait, they are replaced by the whole state: `now`.
    pub(super) fn push(&self, update: Update, now: impl FnOnce() -> Arc<Picture>) {
        let mut backlog = self.backlog();
        if let Update::Reset(_) = &update {
            // It replaces whatever was to be told before.
            *backlog = Backlog::default();
            backlog.updates.push_back(update);
        } else if backlog.updates.len() >= UPDATES || backlog.held + weight(&update) > HELD {
            *backlog = Backlog::default();
            backlog.updates.push_back(Update::Reset(now()));
        } else {
            backlog.held += weight(&update);
            backlog.updates.push_back(update);
        }
        drop(backlog);
        self.more.notify_one();
    }

    /// The next update; may be dropped without loss.
    pub(super) async fn next(&self) -> Update {
        loop {
            let more = self.more.notified();
            if let Some(update) = self.pop() {
                return update;
            }
            more.await;
        }
    }

    fn pop(&self) -> Option<Update> {
        let mut backlog = self.backlog();
        let update = backlog.updates.pop_front()?;
        backlog.held -= weight(&update);
        Some(update)
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standby(&self) -> MutexGuard<'_, Standby> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Instances in the list that an update holds. A whole state shares its lists with the picture.
fn weight(update: &Update) -> usize {
    match update {
        Update::Snapshot(service) => service.instances.len(),
        Update::Delta { service, upserted, .. } => service.instances.len() + upserted.len(),
        Update::Bookmark { .. } | Update::Reset(_) => 0,
    }
}

fn without_services(picture: &Picture) -> Picture {
    Picture {
        connected: picture.connected,
        heard: picture.heard,
        problem: picture.problem.clone(),
        ..Picture::default()
    }
}
