//! What picks are made from: an immutable table of endpoints, made anew when something changes and swapped in whole.
//! Pure: who may be called, in which tier and zone, with which weight and share.

use super::{
    endpoint::{Endpoint, Standing},
    maglev::Maglev,
    ring::Ring,
    settings::{Place, Policy, Settings},
    spread, subset,
    table::{Alias, Steps},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// A utilisation below this counts as this, in percent: figures are up to 10 points off.
const UTILIZATION_LEAST: u8 = 10;

/// Everything that a pick needs.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// First those with a share of the traffic, then those that get only what the others cannot take: each nearest
    /// first.
    pub(super) groups: Vec<Group>,
    /// How many of the groups have a share.
    pub(super) sharing: usize,
    /// Which of these, by their shares; `None` = there is one at most.
    pub(super) steps: Option<Steps>,
    /// Endpoints whose ejection is over: the next pick tries one.
    pub(super) due: Vec<Arc<Endpoint>>,
    /// Too much was ejected, or nothing is routable: what is here is called all the same.
    pub(super) panic: bool,
    /// Endpoints that could be called if all were well, of which this process keeps to the callable ones (its subset),
    /// of which some are out. And those that the registry shows.
    pub(super) routable: usize,
    pub(super) callable: usize,
    pub(super) out: usize,
    pub(super) listed: usize,
    /// Whether some endpoint is in its slow start or its report counts for a time: weights change by themselves.
    pub(super) moving: bool,
}

/// Endpoints of one tier, and of one zone where zones matter.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) members: Box<[Member]>,
    pub(super) table: Table,
}

/// An endpoint in a group.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    /// Weight in means of the group.
    pub(super) relative: f32,
    /// Where hashing decides, members that are out are kept, so that the keys of others stay where they are.
    pub(super) out: bool,
}

/// How a group is drawn from.
#[derive(Debug)]
pub(super) enum Table {
    /// All weights are equal.
    Even,
    Alias(Alias),
    Steps(Steps),
    Ring(Arc<Ring>),
    Maglev(Arc<Maglev>),
}

/// Hash tables that were made before, by what they were made from: changes of health must not cost a table.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<Vec<(u64, u64)>, Hashed>);

#[derive(Debug, Clone)]
enum Hashed {
    Ring(Arc<Ring>),
    Maglev(Arc<Maglev>),
}

/// An endpoint with what was decided about it.
struct Candidate {
    endpoint: Arc<Endpoint>,
    weight: f64,
    available: bool,
}

/// Makes a snapshot of the listed endpoints, which come in order of their keys.
pub(super) fn assemble(
    listed: &[Arc<Endpoint>],
    settings: &Settings,
    caller: u64,
    (now, now_ms): (Instant, u32),
    tables: &mut Tables,
) -> Snapshot {
    let enabled: Vec<_> =
        listed.iter().filter(|e| e.is_enabled() && e.declared_weight() > 0.0).cloned().collect();
    let routable: Vec<_> = enabled.iter().filter(|e| e.is_routable()).cloned().collect();
    // Nothing is routable: a call to what is listed may succeed, a call to nothing cannot.
    let nothing = routable.is_empty();
    let fit = if nothing { enabled.clone() } else { routable };
    let callable = in_subset(&fit, settings, caller);
    let out = callable.iter().filter(|e| e.standing() != Standing::Active).count();
    let panic = too_few(callable.len() - out, callable.len(), settings.panic_below);
    let due = callable.iter().filter(|e| e.standing() == Standing::Due).cloned().collect();

    let (weights, reported) = weights(&callable, settings, (now, now_ms));
    let candidates = callable.iter().zip(weights).map(|(endpoint, weight)| Candidate {
        available: panic || endpoint.standing() == Standing::Active,
        endpoint: Arc::clone(endpoint),
        weight,
    });
    let tiers = into_tiers(candidates.collect(), &enabled, &fit, settings);
    let mut parts = Vec::new();
    for (tier, share) in tiers {
        let zones = into_zones(tier, settings).into_iter();
        parts.extend(zones.map(|(members, part)| (members, share * part)));
    }
    // A part without a share is what is left where the others are full, or were tried: it goes last.
    parts.retain(|(members, _)| members.iter().any(|member| member.available));
    parts.sort_by_key(|(_, share)| *share <= 0.0);
    let shares: Vec<f64> =
        parts.iter().map(|(_, share)| *share).take_while(|share| *share > 0.0).collect();
    let mut made = Tables::default();
    let group = |(members, _)| Group::new(members, settings.policy, tables, &mut made);
    let groups = parts.into_iter().map(group).collect();
    *tables = made;
    Snapshot {
        steps: (shares.len() > 1).then(|| Steps::new(&shares)),
        sharing: shares.len(),
        groups,
        due,
        panic: panic || (nothing && !callable.is_empty()),
        routable: if nothing { 0 } else { fit.len() },
        callable: callable.len(),
        out,
        listed: listed.len(),
        moving: reported || callable.iter().any(|e| ramp(e, settings, now) < 1.0),
    }
}

impl Snapshot {
    /// Whether a call that has tried these may find somebody else.
    pub(super) fn has_others(&self, tried: &[Arc<Endpoint>], limit: Option<u32>) -> bool {
        let mut members = self.groups.iter().flat_map(|group| &*group.members);
        members.any(|Member { endpoint, out, .. }| {
            let room = limit.is_none_or(|limit| endpoint.state.in_flight() < limit);
            room && !out && !tried.iter().any(|e| Arc::ptr_eq(&e.state, &endpoint.state))
        })
    }
}

fn too_few(left: usize, all: usize, threshold: f64) -> bool {
    left < all && (share_of(left, all) < threshold || left == 0)
}

fn share_of(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Each tier keeps its own subset: the fallback must not depend on chance.
fn in_subset(fit: &[Arc<Endpoint>], settings: &Settings, caller: u64) -> Vec<Arc<Endpoint>> {
    let Some(size) = settings.subset else { return fit.to_vec() };
    let mut tiers = BTreeMap::<u32, Vec<Arc<Endpoint>>>::new();
    for endpoint in fit {
        tiers.entry(endpoint.priority()).or_default().push(Arc::clone(endpoint));
    }
    let kept = tiers.into_values().flat_map(|tier| {
        let hashes: Vec<_> = tier.iter().map(|e| e.hash).collect();
        let chosen = subset::choose(&hashes, caller, size);
        chosen.into_iter().map(move |at| Arc::clone(&tier[at])).collect::<Vec<_>>()
    });
    kept.collect()
}

/// Share of its weight that an endpoint gets in its slow start.
fn ramp(endpoint: &Endpoint, settings: &Settings, now: Instant) -> f64 {
    let (Some(since), window) = (endpoint.state.since, settings.slow_start.as_secs_f64()) else {
        return 1.0;
    };
    let age = now.saturating_duration_since(since).as_secs_f64();
    if age >= window { 1.0 } else { (age / window).max(settings.slow_start_least) }
}

/// The weight of each, above 0, and whether reports of load went into them.
fn weights(
    callable: &[Arc<Endpoint>],
    settings: &Settings,
    (now, now_ms): (Instant, u32),
) -> (Vec<f64>, bool) {
    let hashed = matches!(settings.policy, Policy::RingHash | Policy::Maglev);
    let base = |e: &Arc<Endpoint>| {
        // Keys would wander while the weight grows.
        let ramp = if hashed { 1.0 } else { ramp(e, settings, now) };
        e.declared_weight() * ramp
    };
    let declared: Vec<f64> = callable.iter().map(base).collect();
    if settings.policy != Policy::WeightedRoundRobin {
        return (declared, false);
    }
    let reports: Vec<_> = callable.iter().map(|e| e.state.report.weight(now_ms)).collect();
    let known: Vec<f64> = reports.iter().flatten().copied().collect();
    let told: Vec<Option<u8>> = callable.iter().map(|e| e.state.utilization()).collect();
    let idleness = idleness(&told);
    if known.len() < 2 {
        return (declared.iter().zip(idleness).map(|(weight, idle)| weight * idle).collect(), true);
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let weight = |((e, report), idle): ((&Arc<Endpoint>, Option<f64>), f64)| {
        report.unwrap_or(mean * idle) * ramp(e, settings, now)
    };
    (callable.iter().zip(reports).zip(idleness).map(weight).collect(), true)
}

/// How much more than its weight each can take, by what the registry passes on of its utilisation: the root of the mean
/// divided by its own; 1 where nothing is told. The figures come late and without a rate of calls: the mean divided by
/// its own would give all to the idle one, which would then be the busy one, without end. By the root each round undoes
/// half of what the one before did too much, and a third of the way is gone in the end (decision 017).
fn idleness(told: &[Option<u8>]) -> Vec<f64> {
    let share = |percent: u8| f64::from(percent.max(UTILIZATION_LEAST));
    let known: Vec<f64> = told.iter().flatten().map(|percent| share(*percent)).collect();
    if known.len() < 2 {
        return vec![1.0; told.len()];
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    told.iter().map(|told| told.map_or(1.0, |percent| (mean / share(percent)).sqrt())).collect()
}

/// Candidates by tier, each with its share, which may be 0. Another region is a tier of its own, behind the own one. A tier is as
/// healthy as the share of it that the registry lets through, less what this process has ejected of its subset.
fn into_tiers(
    candidates: Vec<Candidate>,
    enabled: &[Arc<Endpoint>],
    fit: &[Arc<Endpoint>],
    settings: &Settings,
) -> Vec<(Vec<Candidate>, f64)> {
    #[derive(Default)]
    struct Tier {
        enabled: usize,
        fit: usize,
        candidates: Vec<Candidate>,
    }
    let rank = |e: &Endpoint| (e.priority(), settings.place.is_far(e.place()));
    let mut tiers = BTreeMap::<_, Tier>::new();
    for endpoint in enabled {
        tiers.entry(rank(endpoint)).or_default().enabled += 1;
    }
    for endpoint in fit {
        tiers.entry(rank(endpoint)).or_default().fit += 1;
    }
    for candidate in candidates {
        tiers.entry(rank(&candidate.endpoint)).or_default().candidates.push(candidate);
    }
    let healthy = |tier: &Tier| {
        let left = tier.candidates.iter().filter(|c| c.available).count();
        share_of(tier.fit, tier.enabled) * share_of(left, tier.candidates.len())
    };
    let shares = spread::tiers(&tiers.values().map(healthy).collect::<Vec<_>>());
    let tiers = tiers.into_values().map(|tier| tier.candidates);
    tiers.zip(shares).filter(|(tier, _)| !tier.is_empty()).collect()
}

/// Candidates of a tier by zone, each with its share of the tier, which may be 0.
fn into_zones(tier: Vec<Candidate>, settings: &Settings) -> Vec<(Vec<Candidate>, f64)> {
    let hashed = matches!(settings.policy, Policy::RingHash | Policy::Maglev);
    let Place { zone, .. } = &settings.place;
    if zone.is_empty() || hashed || !tier.iter().any(|c| settings.place.is_here(c.endpoint.place()))
    {
        return vec![(tier, 1.0)];
    }
    let mut zones = BTreeMap::<(String, String), Vec<Candidate>>::new();
    for candidate in tier {
        let (region, zone) = candidate.endpoint.place();
        // An own zone without a region is one zone, whichever regions its endpoints name.
        let region = if settings.place.region.is_empty() { "" } else { region };
        zones.entry((region.to_owned(), zone.to_owned())).or_default().push(candidate);
    }
    let capacity: Vec<f64> = zones
        .values()
        .map(|zone| zone.iter().filter(|c| c.available).map(|c| c.weight).sum())
        .collect();
    let own = zones.values().position(|zone| settings.place.is_here(zone[0].endpoint.place()));
    let shares = spread::zones(&capacity, own.unwrap_or(0), settings.callers_here);
    zones.into_values().zip(shares).collect()
}

impl Group {
    fn new(
        candidates: Vec<Candidate>,
        policy: Policy,
        old: &mut Tables,
        made: &mut Tables,
    ) -> Self {
        let hashed = matches!(policy, Policy::RingHash | Policy::Maglev);
        let kept: Vec<_> = candidates.into_iter().filter(|c| hashed || c.available).collect();
        let weights: Vec<f64> = kept.iter().map(|c| c.weight).collect();
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let even = weights.iter().all(|weight| (weight / mean - 1.0).abs() < 1e-6);
        let table = match policy {
            Policy::RingHash | Policy::Maglev => made.hashed(&kept, policy, old),
            _ if even => Table::Even,
            Policy::RoundRobin | Policy::WeightedRoundRobin => Table::Steps(Steps::new(&weights)),
            Policy::PeakEwma | Policy::LeastRequest | Policy::Random => {
                Table::Alias(Alias::new(&weights))
            }
        };
        let member = |candidate: Candidate| Member {
            relative: (candidate.weight / mean) as f32,
            out: !candidate.available,
            endpoint: candidate.endpoint,
        };
        Self { members: kept.into_iter().map(member).collect(), table }
    }
}

impl Tables {
    fn hashed(&mut self, members: &[Candidate], policy: Policy, old: &mut Self) -> Table {
        let from: Vec<_> = members.iter().map(|c| (c.endpoint.hash, c.weight.to_bits())).collect();
        let hashed = old.0.remove(&from).unwrap_or_else(|| {
            let members: Vec<_> = members.iter().map(|c| (c.endpoint.hash, c.weight)).collect();
            match policy {
                Policy::Maglev => Hashed::Maglev(Arc::new(Maglev::new(&members))),
                _ => Hashed::Ring(Arc::new(Ring::new(&members))),
            }
        });
        self.0.insert(from, hashed.clone());
        match hashed {
            Hashed::Ring(ring) => Table::Ring(ring),
            Hashed::Maglev(table) => Table::Maglev(table),
        }
    }
}
