//! Watches of the client library, over some services or all; some are dropped now and then and begun anew. Each one
//! checks what it is shown, and leaves what it shows for the end.

use super::{Setup, any_service, host, owned};
use crate::oracle::{Mark, now};
use rand::{RngExt, rngs::SmallRng};
use rollcall_client::{Picture, Selection, Update, Watch};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use turmoil::Sim;

/// What every watch of a run shows now.
#[derive(Debug, Clone, Default)]
pub struct Screens(Arc<Mutex<BTreeMap<usize, watch::Receiver<Arc<Picture>>>>>);

impl Screens {
    fn put(&self, task: usize, pictures: watch::Receiver<Arc<Picture>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task, pictures);
    }

    /// The pictures, by number of the watch.
    pub fn now(&self) -> Vec<(usize, Arc<Picture>)> {
        let screens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        screens.iter().map(|(task, pictures)| (*task, pictures.borrow().clone())).collect()
    }
}

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "watch", setup.plan.mix.watches, setup, |setup, task| async move {
        watch(&setup, task).await
    });
}

/// What one watch has shown so far: nothing of it may go back.
#[derive(Debug, Default)]
struct Shown {
    revision: u64,
    services: BTreeMap<ServiceName, u64>,
    /// What it shows now, by what it was told.
    told: BTreeMap<ServiceName, u64>,
}

/// A reader who does not look for a while: its updates become one state. Has dice of its own.
struct Doze {
    dice: SmallRng,
    next: Duration,
}

impl Doze {
    fn new(mut dice: SmallRng) -> Self {
        let next = now() + Duration::from_millis(dice.random_range(4_000..20_000));
        Self { dice, next }
    }

    /// Sleeps where it is time to, never into the time after the faults.
    async fn perhaps(&mut self, length: Duration) {
        if now() < self.next {
            return;
        }
        let longest = Duration::from_millis(self.dice.random_range(2_000..15_000));
        tokio::time::sleep(longest.min(length.saturating_sub(now()))).await;
        *self = Self::new(self.dice.clone());
    }
}

async fn watch(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("watch {task}"));
    let mut doze = Doze::new(setup.dice(&format!("watch {task} dozes")));
    loop {
        let client = setup.client(&mut dice);
        let watch = client.watch(selection(setup, task, &mut dice)).expect("a valid selection");
        setup.screens.put(task, watch.pictures());
        // The first one stays to the end; the others are dropped now and then.
        let until = match task {
            0 => Duration::MAX,
            _ => now() + Duration::from_millis(dice.random_range(2_000..20_000)),
        };
        let until = if now() > setup.plan.length { Duration::MAX } else { until };
        follow(setup, task, watch, (until, &mut doze)).await;
    }
}

fn selection(setup: &Setup, task: usize, dice: &mut SmallRng) -> Selection {
    let selection = match task % 3 {
        0 => Selection::pattern("", "").expect("a valid pattern"),
        1 => Selection::services([owned(0)]),
        _ => Selection::services([any_service(&setup.plan, dice)]),
    };
    let health = if task % 3 == 2 { v1::HealthFilter::Routable } else { v1::HealthFilter::Any };
    selection
        .filter(v1::ResolveFilter { health: health.into(), ..v1::ResolveFilter::default() })
        .bookmarks(Duration::from_secs(1))
}

async fn follow(
    setup: &Setup,
    task: usize,
    mut watch: Watch,
    (until, doze): (Duration, &mut Doze),
) {
    let mut shown = Shown::default();
    let mut connected = false;
    while now() < until {
        doze.perhaps(setup.plan.length).await;
        let Ok(update) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await else {
            let picture = watch.current();
            if connected && !picture.connected {
                setup.oracle.points.hit("a watch lost its node");
            }
            connected = picture.connected;
            continue;
        };
        match &update {
            Update::Snapshot(service) => {
                forward(setup, task, &mut shown, &service.name, service.revision)
            }
            Update::Delta { service, .. } => {
                setup.oracle.points.hit("a watch was sent a delta");
                forward(setup, task, &mut shown, &service.name, service.revision);
            }
            Update::Bookmark { revision } => {
                if *revision < shown.revision {
                    let seen =
                        format!("watch {task}: bookmark {revision} after {}", shown.revision);
                    setup.oracle.complain("a watch never goes back", seen);
                }
                shown.revision = *revision;
                mark(setup, task, *revision, &shown);
            }
            Update::Reset(picture) => {
                setup.oracle.points.hit("a watch was reset");
                shown.told.clear();
                for service in picture.services.values() {
                    forward(setup, task, &mut shown, &service.name, service.revision);
                }
            }
        }
    }
}

fn forward(setup: &Setup, task: usize, shown: &mut Shown, name: &ServiceName, revision: u64) {
    let before = shown.services.entry(name.clone()).or_default();
    if revision < *before {
        let seen = format!("watch {task}: {name} went from {before} to {revision}");
        setup.oracle.complain("a watch never goes back", seen);
    }
    *before = revision;
    shown.told.insert(name.clone(), revision);
}

/// What a bookmark claims: nothing up to its revision is missing in what is shown.
fn mark(setup: &Setup, task: usize, revision: u64, shown: &Shown) {
    if task % 3 == 2 {
        // Changes that its filter hides move nothing that it shows.
        return;
    }
    let all = task.is_multiple_of(3);
    let mark = Mark { watch: task, revision, all, services: shown.told.clone() };
    setup.oracle.ledger().marks.push(mark);
}
