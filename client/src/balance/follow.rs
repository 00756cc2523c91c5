//! Keeps a balancer's snapshot current: takes lists in, lets ejections end, sweeps, and swaps the new snapshot in.
//! [`Roster`] is the pure part: it keeps what is known of an endpoint from one list to the next.

use super::{
    endpoint::{Endpoint, Key, Standing, State},
    observe::{Cause, Change},
    outlier,
    pick::{Core, Listing},
    snapshot::{Tables, assemble},
};
use crate::watch::{Picture, Watch};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How often weights are computed anew while they change by themselves.
const TICK: Duration = Duration::from_secs(1);

/// Where lists come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A registry. The watch lives here: it ends with the balancer.
    Registry { pictures: watch::Receiver<Arc<Picture>>, service: ServiceName, _watch: Watch },
    /// Lists of the user's own.
    Lists(watch::Receiver<Vec<v1::Instance>>),
}

/// All endpoints of the last list, by key.
#[derive(Debug, Default)]
struct Roster {
    endpoints: BTreeMap<Key, Arc<Endpoint>>,
    begun: bool,
}

/// Follows until the task is aborted.
pub(super) async fn follow(core: Arc<Core>, mut source: Source) {
    let mut roster = Roster::default();
    let mut tables = Tables::default();
    let mut seen = None;
    let mut sweep_at = Instant::now() + core.ejection().interval;
    let mut next = None;
    let mut changed = take(&core, &mut source, &mut roster, &mut seen);
    loop {
        if changed {
            next = rebuild(&core, &roster, &mut tables);
        }
        let wake = next.map_or(sweep_at, |next: Instant| next.min(sweep_at));
        changed = tokio::select! {
            biased;
            // A sign of life of the registry changes nothing.
            () = source.changed() => take(&core, &mut source, &mut roster, &mut seen),
            () = core.changed.notified() => true,
            () = tokio::time::sleep_until(wake) => true,
        };
        let now = Instant::now();
        if now >= sweep_at {
            sweep(&core, &roster);
            sweep_at = now + core.ejection().interval;
        }
    }
}

/// Takes the current list in; returns whether it is another than the last one.
fn take(
    core: &Core,
    source: &mut Source,
    roster: &mut Roster,
    seen: &mut Option<Arc<crate::watch::Service>>,
) -> bool {
    let now_ms = core.millis(Instant::now());
    let name = &core.settings.endpoint;
    match source {
        Source::Lists(lists) => {
            let list: Vec<_> = lists.borrow_and_update().iter().cloned().map(Arc::new).collect();
            roster.update(list.iter(), name, now_ms);
            true
        }
        Source::Registry { pictures, service, .. } => {
            let picture = Arc::clone(&pictures.borrow_and_update());
            match picture.services.get(service) {
                None => {
                    let problem = picture.problem.as_ref().map(|p| p.to_string().into());
                    core.listing.send_modify(|listing| listing.problem = problem);
                    false
                }
                Some(same) if seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, same)) => false,
                Some(service) => {
                    roster.update(service.instances.values(), name, now_ms);
                    *seen = Some(Arc::clone(service));
                    true
                }
            }
        }
    }
}

/// Makes and swaps in the snapshot. Returns when it will be out of date by itself.
fn rebuild(core: &Core, roster: &Roster, tables: &mut Tables) -> Option<Instant> {
    if !roster.begun {
        return None;
    }
    let now = Instant::now();
    let now_ms = core.millis(now);
    let listed: Vec<_> = roster.endpoints.values().cloned().collect();
    let mut next = None;
    let mut out = 0;
    for endpoint in &listed {
        let left = endpoint.state.ejected_until().wrapping_sub(now_ms);
        match endpoint.standing() {
            Standing::Active => continue,
            // A time that has passed has wrapped around.
            Standing::Ejected if left == 0 || left > u32::MAX / 2 => {
                endpoint.state.pass(Standing::Ejected, Standing::Due);
            }
            Standing::Ejected => {
                let at = now + Duration::from_millis(left.into());
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
            Standing::Due | Standing::Probed => {}
        }
        out += 1;
    }
    let snapshot = assemble(&listed, &core.settings, core.caller, now_ms, tables);
    core.ejected.store(out, Relaxed);
    core.ejected_most.store(core.ejection().most(snapshot.routable), Relaxed);
    if snapshot.moving {
        next = Some(next.map_or(now + TICK, |next| next.min(now + TICK)));
    }
    let (panic, routable) = (snapshot.panic, snapshot.routable);
    let before = core.snapshot.swap(Arc::new(snapshot));
    match (before.panic, panic) {
        (false, true) => core.tell(&Change::PanicBegan { routable }),
        (true, false) => core.tell(&Change::PanicEnded),
        (false, false) | (true, true) => {}
    }
    core.listing.send_if_modified(|listing| listing.replace(listed));
    next
}

/// Judges success rates over the interval that ends now, and forgives those that did well.
fn sweep(core: &Core, roster: &Roster) {
    core.delays.sweep();
    let listed: Vec<_> = roster.endpoints.values().collect();
    let counts: Vec<_> = listed.iter().map(|e| e.state.take_counts()).collect();
    if core.ejection().success_rate {
        for at in outlier::outliers(&counts) {
            core.eject(listed[at], Cause::SuccessRate);
        }
    }
    for endpoint in listed.iter().filter(|e| e.standing() == Standing::Active) {
        endpoint.state.forgive();
    }
}

impl Listing {
    /// Returns whether it changed.
    fn replace(&mut self, listed: Vec<Arc<Endpoint>>) -> bool {
        let same = self.endpoints.as_ref().is_some_and(|old| {
            old.len() == listed.len() && old.iter().zip(&listed).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if !same {
            *self = Self { endpoints: Some(listed.into()), problem: None };
        }
        !same
    }
}

impl Roster {
    fn update<'a>(
        &mut self,
        list: impl Iterator<Item = &'a Arc<v1::Instance>>,
        endpoint_name: &str,
        now_ms: u32,
    ) {
        // Nobody is a newcomer in the first list.
        let since = self.begun.then_some(now_ms);
        let mut endpoints = BTreeMap::new();
        for instance in list {
            let Some(address) = address_of(instance, endpoint_name) else { continue };
            let instance_id = instance.instance_id.as_str().into();
            let key = Key { instance_id, generation: instance.generation, address };
            let endpoint = match self.endpoints.get(&key) {
                Some(known) if Arc::ptr_eq(&known.instance, instance) => Arc::clone(known),
                known => {
                    let state = known.map_or_else(
                        || Arc::new(State::new(since)),
                        |known| Arc::clone(&known.state),
                    );
                    Arc::new(Endpoint::new(key.clone(), Arc::clone(instance), state))
                }
            };
            endpoints.insert(key, endpoint);
        }
        (self.endpoints, self.begun) = (endpoints, true);
    }
}

/// Where an instance is called: its endpoint of that name, or its first one. `None` = it cannot be.
fn address_of(instance: &v1::Instance, name: &str) -> Option<SocketAddr> {
    let endpoints = &instance.spec.as_ref()?.endpoints;
    let endpoint = endpoints.iter().find(|e| name.is_empty() || e.name == name)?;
    let (ip, port) = (endpoint.host.parse::<IpAddr>(), u16::try_from(endpoint.port));
    if let (Ok(ip), Ok(port @ 1..)) = (&ip, port) {
        return Some(SocketAddr::new(*ip, port));
    }
    let (id, host, port) = (&instance.instance_id, &endpoint.host, endpoint.port);
    tracing::debug!(id, host, port, "left out: not an address that can be called");
    None
}

impl Source {
    /// Waits for another list. Never ends where none can come any more.
    async fn changed(&mut self) {
        let gone = match self {
            Self::Registry { pictures, .. } => pictures.changed().await.is_err(),
            Self::Lists(lists) => lists.changed().await.is_err(),
        };
        if gone {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, generation: u64, port: u32) -> Arc<v1::Instance> {
        let endpoint = |name: &str, port| v1::Endpoint {
            name: name.into(),
            host: "127.0.0.1".into(),
            port,
            ..v1::Endpoint::default()
        };
        let endpoints = vec![endpoint("http", port), endpoint("grpc", port + 1)];
        let spec = Some(v1::InstanceSpec { endpoints, ..v1::InstanceSpec::default() });
        let instance_id = id.to_owned();
        Arc::new(v1::Instance { instance_id, generation, spec, ..v1::Instance::default() })
    }

    fn states(roster: &Roster) -> Vec<Arc<State>> {
        roster.endpoints.values().map(|e| Arc::clone(&e.state)).collect()
    }

    #[test]
    fn what_is_known_of_an_endpoint_stays_until_its_owner_changes() {
        let mut roster = Roster::default();
        roster.update([instance("a", 1, 80), instance("b", 2, 80)].iter(), "", 5);
        let before = states(&roster);
        // Another record of the same owner, and a new owner of the same id.
        roster.update([instance("a", 1, 80), instance("b", 3, 80)].iter(), "", 9);
        let after = states(&roster);
        assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
        assert_eq!((before[0].since, after[1].since), (None, Some(9)));
    }

    #[test]
    fn the_named_endpoint_is_called_and_what_cannot_be_called_is_left_out() {
        let good = instance("a", 1, 80);
        assert_eq!(address_of(&good, ""), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(address_of(&good, "grpc"), Some("127.0.0.1:81".parse().unwrap()));
        assert_eq!(address_of(&good, "admin"), None);
        assert_eq!(address_of(&instance("a", 1, 70_000), ""), None);
        assert_eq!(address_of(&instance("a", 1, 0), ""), None);
        assert_eq!(address_of(&v1::Instance::default(), ""), None);
        let mut named = (*good).clone();
        named.spec.as_mut().unwrap().endpoints[0].host = "localhost".into();
        assert_eq!(address_of(&named, ""), None);
    }
}
