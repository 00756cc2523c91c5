//! Holds back sudden losses: when a service loses more than half of its instances within the grace, and nobody took
//! them out on purpose, they stay shown until the grace is over. Pure.
//!
//! The registry may have lost its mind (data gone, restored from an old backup, cut off from all instances); callers
//! find out by themselves which instances are dead, and are worse off with none.

use super::{Picture, Service, Update};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1::{self, EventReason, watch_response::Removal};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Losses with a reason (the lease ran out, checks fail) count only where there were this many instances: of fewer,
/// more than half is one or two.
const FEW: usize = 3;

/// What is held back, over all services.
#[derive(Debug)]
pub(super) struct Brake {
    grace: Duration,
    services: BTreeMap<ServiceName, Braked>,
}

/// One service.
#[derive(Debug)]
struct Braked {
    /// As the registry shows it.
    told: Arc<Service>,
    /// With what is held.
    shown: Arc<Service>,
    /// Losses within the grace: when, how many, and how many of them without any reason.
    losses: VecDeque<Loss>,
    held: BTreeMap<String, Arc<v1::Instance>>,
    /// When what is held is let go.
    until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Loss {
    at: Instant,
    reasoned: usize,
    silent: usize,
    /// How many were listed before.
    before: usize,
}

impl Brake {
    /// Holds back for this long; zero = never.
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, services: BTreeMap::new() }
    }

    /// These services are shown, without a registry having said so in this process: what it says first is measured
    /// against them.
    pub(super) fn begin_with<'a>(&mut self, services: impl IntoIterator<Item = &'a Arc<Service>>) {
        if self.grace.is_zero() {
            return;
        }
        for service in services {
            self.services.insert(service.name.clone(), Braked::new(Arc::clone(service)));
        }
    }

    /// What to tell instead of `update`. `now_told` is all that the registry shows after it.
    pub(super) fn pass(
        &mut self,
        update: Update,
        now_told: &BTreeMap<ServiceName, Arc<Service>>,
        now: Instant,
    ) -> Update {
        if self.grace.is_zero() {
            return update;
        }
        match update {
            Update::Snapshot(service) => Update::Snapshot(self.take(&service, &[], now)),
            Update::Delta { service, upserted, removed } => {
                let shown = self.take(&service, &removed, now);
                let still = |removal: &Removal| shown.held.contains(&removal.instance_id);
                let removed = removed.into_iter().filter(|removal| !still(removal)).collect();
                Update::Delta { service: shown, upserted, removed }
            }
            Update::Bookmark { revision } => {
                let listed = |name: &ServiceName, braked: &Braked| {
                    braked.until.is_some() || now_told.contains_key(name)
                };
                self.services.retain(|name, braked| listed(name, braked));
                // What a resumed stream confirmed without a word about it.
                for (name, service) in now_told {
                    if !self.services.contains_key(name) {
                        self.services.insert(name.clone(), Braked::new(Arc::clone(service)));
                    }
                }
                Update::Bookmark { revision }
            }
            Update::Reset(picture) => {
                let gone: Vec<_> = self
                    .services
                    .values()
                    .filter(|braked| !picture.services.contains_key(&braked.told.name))
                    .map(|braked| Arc::new(Service::empty(braked.told.name.clone(), 0)))
                    .collect();
                for service in picture.services.values().chain(&gone) {
                    self.take(service, &[], now);
                }
                let mut picture = Picture::clone(&picture);
                self.cover(&mut picture);
                Update::Reset(Arc::new(picture))
            }
        }
    }

    /// Adds what is held to a picture of what the registry shows.
    pub(super) fn cover(&self, picture: &mut Picture) {
        let holding = self.services.iter().filter(|(_, braked)| !braked.held.is_empty());
        for (name, braked) in holding {
            picture.services.insert(name.clone(), Arc::clone(&braked.shown));
        }
    }

    /// When something is to be let go.
    pub(super) fn due(&self) -> Option<Instant> {
        self.services.values().filter_map(|braked| braked.until).min()
    }

    /// Lets go what was held for long enough; the changes to tell.
    pub(super) fn let_go(&mut self, now: Instant) -> Vec<Update> {
        let mut updates = Vec::new();
        for (name, braked) in &mut self.services {
            if braked.until.is_none_or(|until| until > now) {
                continue;
            }
            braked.until = None;
            let held = std::mem::take(&mut braked.held);
            tracing::warn!(service = %name, instances = held.len(), "let go what was held back");
            braked.shown = Arc::clone(&braked.told);
            let removed = held.into_keys();
            let removed =
                removed.map(|instance_id| Removal { instance_id, ..Removal::default() }).collect();
            let service = Arc::clone(&braked.shown);
            updates.push(Update::Delta { service, upserted: Vec::new(), removed });
        }
        updates
    }

    fn take(&mut self, told: &Arc<Service>, removed: &[Removal], now: Instant) -> Arc<Service> {
        let grace = self.grace;
        let braked = self
            .services
            .entry(told.name.clone())
            .or_insert_with(|| Braked::new(Arc::new(Service::empty(told.name.clone(), 0))));
        braked.take(told, removed, grace, now);
        Arc::clone(&braked.shown)
    }
}

impl Braked {
    fn new(service: Arc<Service>) -> Self {
        Self {
            told: Arc::clone(&service),
            shown: service,
            losses: VecDeque::new(),
            held: BTreeMap::new(),
            until: None,
        }
    }

    fn take(&mut self, told: &Arc<Service>, removed: &[Removal], grace: Duration, now: Instant) {
        let reasons: BTreeMap<&str, EventReason> =
            removed.iter().map(|removal| (&*removal.instance_id, removal.reason())).collect();
        let before = std::mem::replace(&mut self.told, Arc::clone(told));
        // What came back, and what was taken out on purpose meanwhile, is not held any more.
        self.held.retain(|id, _| {
            let on_purpose = reasons.get(&**id).is_some_and(|reason| is_on_purpose(*reason));
            !told.instances.contains_key(id) && !on_purpose
        });
        let mut lost = Vec::new();
        let mut loss = Loss { at: now, reasoned: 0, silent: 0, before: before.instances.len() };
        for (id, instance) in &before.instances {
            if told.instances.contains_key(id) {
                continue;
            }
            match reasons.get(&**id) {
                Some(reason) if is_on_purpose(*reason) => continue,
                None | Some(EventReason::Unspecified) => loss.silent += 1,
                Some(_) => loss.reasoned += 1,
            }
            lost.push((id.clone(), Arc::clone(instance)));
        }
        self.losses.retain(|loss| loss.at + grace > now);
        self.add(loss);
        if !lost.is_empty() && (self.until.is_some() || self.is_sudden()) {
            if self.until.is_none() {
                self.until = Some(now + grace);
                tracing::warn!(
                    service = %told.name, listed = told.instances.len(), held = lost.len(), ?grace,
                    "the registry lists less than half of what it did, hold the others"
                );
            }
            self.held.extend(lost);
        }
        if self.held.is_empty() {
            self.until = None;
            self.shown = Arc::clone(told);
        } else {
            let mut shown = Service::clone(told);
            shown.held = self.held.keys().cloned().collect::<BTreeSet<_>>();
            shown.instances.extend(self.held.iter().map(|(id, i)| (id.clone(), Arc::clone(i))));
            self.shown = Arc::new(shown);
        }
    }

    /// Losses in quick succession count as one: the list stays short however fast they come.
    fn add(&mut self, loss: Loss) {
        const APART: Duration = Duration::from_millis(100);
        if loss.reasoned + loss.silent == 0 {
            return;
        }
        match self.losses.back_mut() {
            Some(last) if last.at + APART > loss.at => {
                last.reasoned += loss.reasoned;
                last.silent += loss.silent;
            }
            _ => self.losses.push_back(loss),
        }
    }

    /// More was lost within the grace than is left, and nothing took its place.
    fn is_sudden(&self) -> bool {
        let left = self.told.instances.len();
        let before = self.losses.iter().map(|loss| loss.before).max().unwrap_or_default();
        let silent: usize = self.losses.iter().map(|loss| loss.silent).sum();
        let reasoned: usize = self.losses.iter().map(|loss| loss.reasoned).sum();
        let counted = if left + silent + reasoned < FEW { silent } else { silent + reasoned };
        counted > left && left * 2 < before
    }
}

/// Somebody wanted it out: its owner, an operator, or a change of its spec.
fn is_on_purpose(reason: EventReason) -> bool {
    matches!(
        reason,
        EventReason::Deregistered
            | EventReason::Removed
            | EventReason::AdminSet
            | EventReason::AdminExpired
            | EventReason::Updated
            | EventReason::TakenOver
            | EventReason::PolicyPut
            | EventReason::PolicyDeleted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn name() -> ServiceName {
        ServiceName::parse("", "web").unwrap()
    }

    fn service(revision: u64, ids: &[u32]) -> Arc<Service> {
        let instance = |id: &u32| {
            let instance_id = id.to_string();
            let instance = v1::Instance { instance_id: instance_id.clone(), ..Default::default() };
            (instance_id, Arc::new(instance))
        };
        let instances = ids.iter().map(instance).collect();
        Arc::new(Service { exists: true, instances, ..Service::empty(name(), revision) })
    }

    fn brake() -> (Brake, Instant) {
        let mut brake = Brake::new(GRACE);
        let now = Instant::now();
        let full: Vec<u32> = (0..10).collect();
        snapshot(&mut brake, &full, now);
        (brake, now)
    }

    fn shown(update: Update) -> (Vec<u32>, usize) {
        let (Update::Snapshot(service) | Update::Delta { service, .. }) = update else {
            panic!("{update:?}")
        };
        let mut ids: Vec<u32> = service.instances.keys().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        (ids, service.held.len())
    }

    fn snapshot(brake: &mut Brake, ids: &[u32], now: Instant) -> (Vec<u32>, usize) {
        shown(brake.pass(Update::Snapshot(service(1, ids)), &BTreeMap::new(), now))
    }

    fn remove(
        brake: &mut Brake,
        left: &[u32],
        removed: &[u32],
        reason: EventReason,
        now: Instant,
    ) -> (Vec<u32>, usize) {
        let removal = |id: &u32| Removal {
            instance_id: id.to_string(),
            reason: reason.into(),
            still_registered: false,
        };
        let removed = removed.iter().map(removal).collect();
        let update = Update::Delta { service: service(2, left), upserted: Vec::new(), removed };
        shown(brake.pass(update, &BTreeMap::new(), now))
    }

    #[test]
    fn half_may_go_and_more_is_held_for_the_grace() {
        let (mut brake, now) = brake();
        assert_eq!(snapshot(&mut brake, &[0, 1, 2, 3, 4], now), (vec![0, 1, 2, 3, 4], 0));
        let (mut brake, now) = self::brake();
        let (ids, held) = snapshot(&mut brake, &[0, 1, 2, 3], now);
        assert_eq!((ids.len(), held), (10, 6));
        assert_eq!(brake.due(), Some(now + GRACE));
        assert!(brake.let_go(now + GRACE / 2).is_empty());
        let updates = brake.let_go(now + GRACE);
        let [Update::Delta { service, removed, .. }] = &updates[..] else { panic!("{updates:?}") };
        assert_eq!((service.instances.len(), removed.len()), (4, 6));
        assert_eq!(brake.due(), None);
    }

    #[test]
    fn an_empty_list_of_a_registry_that_lost_its_data_is_held_even_for_one_instance() {
        let mut brake = Brake::new(GRACE);
        let now = Instant::now();
        snapshot(&mut brake, &[7], now);
        assert_eq!(snapshot(&mut brake, &[], now), (vec![7], 1));
        assert_eq!(snapshot(&mut brake, &[7], now), (vec![7], 0), "it came back");
        assert_eq!(brake.due(), None);
    }

    #[test]
    fn what_somebody_wanted_out_goes_at_once() {
        for reason in [EventReason::Deregistered, EventReason::Removed, EventReason::AdminSet] {
            let (mut brake, now) = brake();
            let most: Vec<u32> = (1..10).collect();
            assert_eq!(remove(&mut brake, &[0], &most, reason, now), (vec![0], 0), "{reason:?}");
        }
    }

    #[test]
    fn one_crash_of_two_goes_at_once_and_two_of_three_are_held() {
        let expired = EventReason::LeaseExpired;
        for (all, left, held) in [(vec![0], 0, 0), (vec![0, 1], 1, 0), (vec![0, 1, 2], 1, 2)] {
            let mut brake = Brake::new(GRACE);
            let now = Instant::now();
            snapshot(&mut brake, &all, now);
            let shown = remove(&mut brake, &all[..left], &all[left..], expired, now);
            assert_eq!(shown, (all[..left + held].to_vec(), held));
        }
    }

    #[test]
    fn losses_one_by_one_within_the_grace_add_up_and_slow_ones_do_not() {
        for (step, expected) in [(Duration::from_secs(1), 5), (Duration::from_secs(11), 0)] {
            let (mut brake, mut now) = brake();
            let mut held = 0;
            for gone in 0..8 {
                now += step;
                brake.let_go(now);
                let left: Vec<u32> = (gone + 1..10).collect();
                let lost = [gone];
                held = held.max(remove(&mut brake, &left, &lost, EventReason::LeaseExpired, now).1);
            }
            // From the sixth on more were lost than are left.
            assert_eq!(held, if expected == 0 { 0 } else { 3 }, "a step of {step:?}");
        }
    }

    #[test]
    fn a_held_instance_that_is_deregistered_after_all_goes_at_once() {
        let (mut brake, now) = brake();
        assert_eq!(snapshot(&mut brake, &[0], now).1, 9);
        let (ids, held) = remove(&mut brake, &[0], &[5, 6], EventReason::Deregistered, now);
        assert_eq!((ids.contains(&5), ids.contains(&6), held), (false, false, 7));
    }

    #[test]
    fn many_new_instances_in_place_of_the_old_are_no_loss() {
        let (mut brake, now) = brake();
        for round in 1..10 {
            let new: Vec<u32> = (round * 10..round * 10 + 10).collect();
            assert_eq!(snapshot(&mut brake, &new, now), (new, 0));
        }
    }

    #[test]
    fn services_that_vanish_in_a_reset_are_held_and_covered() {
        let (mut brake, now) = brake();
        let reset = Update::Reset(Arc::default());
        let Update::Reset(picture) = brake.pass(reset, &BTreeMap::new(), now) else { panic!() };
        assert_eq!(picture.services[&name()].held.len(), 10);
        brake.let_go(now + GRACE);
        let mut bare = Picture::default();
        brake.cover(&mut bare);
        assert!(bare.services.is_empty());
        let bookmark = Update::Bookmark { revision: 9 };
        brake.pass(bookmark, &BTreeMap::new(), now + GRACE);
        assert!(brake.services.is_empty(), "what is neither shown nor held is forgotten");
    }

    #[test]
    fn without_a_grace_nothing_is_held() {
        let mut brake = Brake::new(Duration::ZERO);
        let now = Instant::now();
        snapshot(&mut brake, &[0, 1, 2, 3], now);
        assert_eq!(snapshot(&mut brake, &[], now), (vec![], 0));
    }
}
