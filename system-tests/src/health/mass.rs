//! 60 % of 300 instances die at once.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SERVERS};
use super::fleet::{Check, Plan};
use super::observer::Observer;
use super::{FALL, INTERVAL, LISTED, SERVICE, TTL};
use crate::case::{Checked, check};
use crate::netns::network;
use crate::program::{Program, until};
use crate::stage::Stage;

const LIVING: u16 = 120;
const DYING: u16 = 180;
const ALL: usize = (LIVING + DYING) as usize;
/// Longest that protection lasts.
const LIMIT: Duration = Duration::from_secs(600);

struct Scene {
    cluster: Cluster,
    observer: Observer,
    dying: Plan,
    homes: [crate::netns::Namespace; 2],
    _living: Program,
}

impl Scene {
    fn open(stage: &Stage, way: Check) -> Checked<(Self, Program)> {
        let machines = network(stage, SERVERS + 3)?;
        let (cluster, observer) = Cluster::formed(stage, &machines)?;
        let homes = [machines[SERVERS].clone(), machines[SERVERS + 1].clone()];
        let plan = |home: &crate::netns::Namespace, count: u16| -> Checked<Plan> {
            let ip = home.address.parse()?;
            let targets: Vec<_> = (0..count).map(|n| SocketAddr::new(ip, 9_000 + n)).collect();
            Ok(Plan {
                registry: cluster.grpc(),
                service: SERVICE.to_owned(),
                listen: targets.clone(),
                targets,
                ttl: TTL,
                check: way,
                interval: INTERVAL,
            })
        };
        let living = plan(&homes[0], LIVING)?.start(stage, "living", Some(&homes[0]))?;
        let dying = plan(&homes[1], DYING)?;
        let doomed = dying.start(stage, "doomed", Some(&homes[1]))?;
        observer.until_routable(ALL, LISTED)?;
        Ok((Self { cluster, observer, dying, homes, _living: living }, doomed))
    }

    /// They are all dead and all listed, and the answer says why.
    fn until_held(&self) -> Checked {
        until("mass expiry is held back", TTL * 3, || {
            let answer = self.observer.resolve()?;
            let about = answer.read_metadata.as_ref().is_some_and(|about| about.protected);
            let count = answer.instances.len();
            let watched = self.observer.protected();
            check(about && watched && count == ALL, || {
                format!("protected: {about}, by the watch {watched}, {count} answered")
            })
        })
    }
}

/// Without checks: protection holds them, and ends when they are back.
pub(crate) fn held(stage: &mut Stage) -> Checked {
    let (scene, mut doomed) = Scene::open(stage, Check::None)?;
    doomed.kill()?;
    scene.until_held()?;
    // Longer than a lease: they stay.
    sleep(TTL * 2);
    scene.until_held()?;
    let _back = scene.dying.start(stage, "back", Some(&scene.homes[1]))?;
    let begin = Instant::now();
    until("protection ends when they are back", LISTED, || {
        let answer = scene.observer.resolve()?;
        let about = answer.read_metadata.as_ref().is_some_and(|about| about.protected);
        check(!about, || "protected".to_owned())
    })?;
    stage.note(&format!(
        "{DYING} of {ALL} silent: held; ended {:.2?} after they were started again",
        begin.elapsed()
    ));
    scene.observer.until_routable(ALL, LISTED)
}

/// Without checks, and they never come back.
pub(crate) fn limit(stage: &mut Stage) -> Checked {
    let (scene, mut doomed) = Scene::open(stage, Check::None)?;
    doomed.kill()?;
    scene.until_held()?;
    let begin = Instant::now();
    scene.observer.until_routable(LIVING.into(), LIMIT + TTL * 4)?;
    let took = begin.elapsed();
    stage.note(&format!("released by itself {took:.1?} after it began"));
    check(took + TTL >= LIMIT, || format!("{took:?} is too early"))
}

/// With checks: the dead go, the living stay.
pub(crate) fn probed(stage: &mut Stage) -> Checked {
    let (scene, mut doomed) = Scene::open(stage, Check::Tcp)?;
    let begin = Instant::now();
    doomed.kill()?;
    let within = INTERVAL * FALL * 2 + TTL + Duration::from_millis(4_500);
    scene.observer.until_routable(LIVING.into(), within)?;
    stage.note(&format!("{DYING} of {ALL} killed: gone after {:.2?}", begin.elapsed()));
    // Longer than any verdict takes: nobody follows them.
    sleep(TTL * 3);
    let here = scene.observer.routable();
    check(here == usize::from(LIVING), || format!("{here} take traffic, {LIVING} live"))?;
    scene.cluster.leader(&scene.observer, LISTED).map(drop)
}
