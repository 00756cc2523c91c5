//! Keeps a balancer's snapshot current: takes lists in, lets ejections end, sweeps, and swaps the new snapshot in.
//! [`Roster`] is the pure part: it keeps what is known of an endpoint from one list to the next.

use super::{
    endpoint::{Endpoint, Key, Standing, State},
    observe::{Cause, Change},
    outlier,
    pick::{Core, Listing},
    snapshot::{Tables, assemble},
};
use crate::watch::{Picture, Utilization, Watch};
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

/// How long figures of load count once no registry is there to tell others: as long as reports of load (A58) do.
const TOLD_FOR: Duration = Duration::from_secs(180);

/// Where lists come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A registry. The watch lives here: it ends with the balancer.
    Registry { pictures: watch::Receiver<Arc<Picture>>, service: ServiceName, _watch: Watch },
    /// Lists of the user's own.
    Lists(watch::Receiver<Vec<v1::Instance>>),
}

/// What was taken from the last picture: list, and how busy the instances are.
#[derive(Debug, Default)]
struct Seen {
    list: Option<Arc<crate::watch::Service>>,
    told: Option<Arc<BTreeMap<String, Utilization>>>,
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
    let mut seen = Seen::default();
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
fn take(core: &Core, source: &mut Source, roster: &mut Roster, seen: &mut Seen) -> bool {
    let now = Instant::now();
    let name = &core.settings.endpoint;
    match source {
        Source::Lists(lists) => {
            let list: Vec<_> = lists.borrow_and_update().iter().cloned().map(Arc::new).collect();
            roster.update(list.iter(), name, now);
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
                Some(listed) => {
                    let list = replace(&mut seen.list, Some(listed));
                    if list {
                        roster.update(listed.instances.values(), name, now);
                    }
                    let figures = picture.utilization.get(service).filter(|_| !is_old(&picture));
                    let told = replace(&mut seen.told, figures);
                    if list || told {
                        let tells = figures.is_some();
                        roster.tell(|instance| {
                            tells.then(|| picture.utilization_of(service, instance))?
                        });
                    }
                    list || told
                }
            }
        }
    }
}

/// Whether what it says of load was said too long ago. It is shown anew whenever a node was asked in vain.
fn is_old(picture: &Picture) -> bool {
    !picture.connected && picture.heard.is_some_and(|heard| heard.elapsed() > TOLD_FOR)
}

/// Puts in what is shown now; whether it is something else.
fn replace<T>(seen: &mut Option<Arc<T>>, shown: Option<&Arc<T>>) -> bool {
    let same = match (&*seen, shown) {
        (Some(seen), Some(shown)) => Arc::ptr_eq(seen, shown),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if !same {
        *seen = shown.cloned();
    }
    !same
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
    for endpoint in &listed {
        let left = endpoint.state.ejected_until().wrapping_sub(now_ms);
        match endpoint.standing() {
            Standing::Active | Standing::Due | Standing::Probed => {}
            // A time that has passed has wrapped around.
            Standing::Ejected if left == 0 || left > u32::MAX / 2 => {
                endpoint.state.pass(Standing::Ejected, Standing::Due);
            }
            Standing::Ejected => {
                let at = now + Duration::from_millis(left.into());
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
        }
    }
    let snapshot = assemble(&listed, &core.settings, core.caller, (now, now_ms), tables);
    // Of one set: who is not called anyway takes no ejection from the others.
    core.ejected.store(u32::try_from(snapshot.out).unwrap_or(u32::MAX), Relaxed);
    core.ejected_most.store(core.ejection().most(snapshot.callable), Relaxed);
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
        now: Instant,
    ) {
        // Nobody is a newcomer in the first list.
        let since = self.begun.then_some(now);
        let mut endpoints = BTreeMap::new();
        // Both sides come in order of ids where a registry sends them: nearly all of a large list is known, and found
        // without reading an address or making a key.
        let mut known = self.endpoints.values().peekable();
        for instance in list {
            let id = instance.instance_id.as_str();
            while known.next_if(|e| *e.key.instance_id < *id).is_some() {}
            if let Some(same) = known.peek().filter(|e| Arc::ptr_eq(&e.instance, instance)) {
                endpoints.insert(same.key.clone(), Arc::clone(same));
                continue;
            }
            let Some(address) = address_of(instance, endpoint_name) else { continue };
            let instance_id = id.into();
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

    /// Notes how busy each is.
    fn tell(&self, utilization: impl Fn(&v1::Instance) -> Option<u8>) {
        for endpoint in self.endpoints.values() {
            endpoint.state.set_utilization(utilization(&endpoint.instance));
        }
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
        let begin = Instant::now();
        let later = begin + Duration::from_millis(4);
        roster.update([instance("a", 1, 80), instance("b", 2, 80)].iter(), "", begin);
        let before = states(&roster);
        // Another record of the same owner, and a new owner of the same id.
        roster.update([instance("a", 1, 80), instance("b", 3, 80)].iter(), "", later);
        let after = states(&roster);
        assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
        assert_eq!((before[0].since, after[1].since), (None, Some(later)));
    }

    #[test]
    fn a_list_in_any_order_keeps_what_is_known() {
        let list: Vec<_> = (0..9_u64).map(|n| instance(&format!("i{n}"), n, 80)).collect();
        let mut roster = Roster::default();
        roster.update(list.iter(), "", Instant::now());
        let before: Vec<_> = roster.endpoints.values().cloned().collect();
        for turn in 0..list.len() {
            let (end, start) = list.split_at(turn);
            roster.update(start.iter().chain(end), "", Instant::now());
            let after = roster.endpoints.values();
            assert!(after.len() == 9 && after.zip(&before).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
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
