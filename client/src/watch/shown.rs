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
/// own: without this a reader that is slow would cost 256 lists of 20,000.
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
    reader: Reader,
    /// Changes were pushed that the picture does not show yet.
    unshown: bool,
    updates: VecDeque<Update>,
    held: usize,
}

/// Nothing is kept for somebody who never reads: most watches feed a balancer, which goes by the picture.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reader {
    #[default]
    Absent,
    /// Its first state comes with the next picture.
    Waits,
    Reads,
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

    /// Shows a picture. One that stands in for the registry shows its services only once it was revealed; until then
    /// it is kept, with what a registry has changed of it meanwhile, so that a reader who heard of a change never sees
    /// the state before it.
    pub(super) fn show(&self, picture: Picture) {
        let mut standby = self.standby();
        let hidden = picture.origin.is_stand_in() && !standby.revealed;
        let picture = Arc::new(picture);
        let shown =
            if hidden { Arc::new(without_services(&picture)) } else { Arc::clone(&picture) };
        standby.picture = hidden.then_some(picture);
        drop(standby);
        let mut backlog = self.backlog();
        self.picture.send_replace(Arc::clone(&shown));
        backlog.unshown = false;
        if backlog.reader == Reader::Waits {
            backlog.start(shown);
            drop(backlog);
            self.more.notify_one();
        }
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
        let mut backlog = self.backlog();
        self.picture.send_replace(Arc::clone(&picture));
        backlog.unshown = false;
        if backlog.reader != Reader::Absent {
            backlog.begin(Arc::clone(&picture));
        }
        drop(backlog);
        self.more.notify_one();
        Some(picture)
    }

    /// Whether the picture that stands in is shown.
    pub(super) fn is_revealed(&self) -> bool {
        self.standby().revealed
    }

    /// Keeps an update for the reader. Where too many wait, they are replaced by the whole state: `now`.
    pub(super) fn push(&self, update: Update, now: impl FnOnce() -> Arc<Picture>) {
        let mut backlog = self.backlog();
        backlog.unshown = true;
        if backlog.reader != Reader::Reads {
            return;
        }
        if let Update::Reset(picture) = update {
            // It replaces whatever was to be told before.
            backlog.begin(picture);
        } else if backlog.updates.len() >= UPDATES || backlog.held + weight(&update) > HELD {
            backlog.begin(now());
        } else {
            backlog.held += weight(&update);
            backlog.updates.push_back(update);
        }
        drop(backlog);
        self.more.notify_one();
    }

    /// The next update; may be dropped without loss. The first one is the whole state, where there is one.
    pub(super) async fn next(&self) -> Update {
        self.read();
        loop {
            let more = self.more.notified();
            if let Some(update) = self.pop() {
                return update;
            }
            more.await;
        }
    }

    /// From now on updates are kept.
    fn read(&self) {
        let mut backlog = self.backlog();
        if backlog.reader != Reader::Absent {
            return;
        }
        if backlog.unshown {
            backlog.reader = Reader::Waits;
            return;
        }
        let picture = Arc::clone(&self.picture.borrow());
        backlog.start(picture);
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

impl Backlog {
    /// A reader comes. A state of which nothing is known is none to begin with.
    fn start(&mut self, picture: Arc<Picture>) {
        if picture.complete || !picture.services.is_empty() {
            self.begin(picture);
        }
        self.reader = Reader::Reads;
    }

    /// All there is to tell is this state.
    fn begin(&mut self, picture: Arc<Picture>) {
        self.updates.clear();
        self.updates.push_back(Update::Reset(picture));
        (self.reader, self.held) = (Reader::Reads, 0);
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
