//! Drawing one endpoint from a group. No lock, no allocation; what it reads of other calls are atomics.

use super::{
    endpoint::{Endpoint, State},
    settings::Policy,
    snapshot::{Group, Member, Table},
    table::scale,
};
use crate::dice::{Rolls, fraction, mix};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The second of two must be better by so much to win: without it noise would decide instead of the weights.
const BETTER: f32 = 0.9;
/// Cost of a newcomer whose first call is still on its way: above all that is known.
const UNPROVEN: f32 = 1e15;
/// Members that are looked at one by one where those drawn cannot be had.
const SCAN: usize = 128;
/// Points of a ring that are looked at before that.
const WALK: usize = 256;
/// The golden ratio as a fraction of 2^64: multiples of it fall evenly into an interval.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a draw goes by.
#[derive(Debug)]
pub(super) struct Draw<'a> {
    pub(super) policy: Policy,
    pub(super) rolls: &'a Rolls,
    pub(super) turn: &'a AtomicU64,
    pub(super) limit: Option<u32>,
    pub(super) now_ms: u32,
    pub(super) key: Option<u64>,
    /// Endpoints that this call has tried already.
    pub(super) avoid: &'a [Arc<Endpoint>],
}

impl Draw<'_> {
    /// Takes a place at one member of the group; `None` = all that were looked at are full or to be avoided.
    pub(super) fn from<'g>(&self, group: &'g Group) -> Option<&'g Arc<Endpoint>> {
        let members = &group.members;
        let drawn = match (&group.table, members.len()) {
            (_, 0) => return None,
            (Table::Ring(_) | Table::Maglev(_), _) => self.by_key(group),
            (Table::Even | Table::Alias(_) | Table::Steps(_), 1) => self.enter(&members[0]),
            // A second attempt takes no turn: with few endpoints first attempts would fall into step with it.
            (Table::Steps(_), _) if !self.avoid.is_empty() => None,
            (Table::Steps(_), _) => self.enter(&members[self.by_turn(group)]),
            (Table::Even | Table::Alias(_), _) => match self.policy {
                Policy::RoundRobin | Policy::WeightedRoundRobin if !self.avoid.is_empty() => None,
                Policy::RoundRobin | Policy::WeightedRoundRobin => {
                    self.enter(&members[self.by_turn(group)])
                }
                Policy::Random => self.enter(&members[by_chance(group, self.rolls.next())]),
                Policy::PeakEwma | Policy::LeastRequest | Policy::RingHash | Policy::Maglev => {
                    self.better_of_two(group)
                }
            },
        };
        drawn.or_else(|| self.scan(members))
    }

    /// Power of two choices. The first is drawn by weight; the second replaces it only where it is clearly better, so
    /// that equal endpoints get their weights exactly.
    fn better_of_two<'g>(&self, group: &'g Group) -> Option<&'g Arc<Endpoint>> {
        let members = &group.members;
        let first = by_chance(group, self.rolls.next());
        let second = another(group, first, self.rolls.next());
        let (first, second) = (&members[first], &members[second]);
        let (one, other) = if self.cost(second) < self.cost(first) * BETTER {
            (second, first)
        } else {
            (first, second)
        };
        self.enter(one).or_else(|| self.enter(other))
    }

    /// What one more call there costs.
    fn cost(&self, member: &Member) -> f32 {
        let in_flight = member.endpoint.state.in_flight() as f32;
        // One more than are there, so that an idle endpoint has a cost; by weight, because a strong one bears more.
        let load = 1.0 + in_flight / member.relative;
        if self.policy == Policy::LeastRequest {
            return load;
        }
        match member.endpoint.state.latency.mean(self.now_ms) {
            Some(mean) => mean * load,
            // A newcomer is tried once, at once, and only then with more.
            None if in_flight == 0.0 => 0.0,
            None => UNPROVEN * load,
        }
    }

    fn by_turn(&self, group: &Group) -> usize {
        let turn = self.turn.fetch_add(1, Relaxed);
        match &group.table {
            Table::Steps(steps) => steps.at(fraction(turn.wrapping_mul(GOLDEN))),
            Table::Even | Table::Alias(_) | Table::Ring(_) | Table::Maglev(_) => {
                (turn % group.members.len() as u64) as usize
            }
        }
    }

    fn by_key<'g>(&self, group: &'g Group) -> Option<&'g Arc<Endpoint>> {
        // Keys of users may stand close together; without a key any place is as good.
        let key = self.key.map_or_else(|| self.rolls.next(), mix);
        let members = &group.members;
        let enter = |at: usize| self.enter(&members[at]);
        match &group.table {
            Table::Ring(ring) => ring.walk(key).take(WALK).find_map(enter),
            Table::Maglev(table) => table.walk(key).find_map(enter),
            Table::Even | Table::Alias(_) | Table::Steps(_) => None,
        }
    }

    fn scan<'g>(&self, members: &'g [Member]) -> Option<&'g Arc<Endpoint>> {
        let start = high(self.rolls.next(), members.len());
        let (before, after) = members.split_at(start);
        after.iter().chain(before).take(SCAN).find_map(|member| self.enter(member))
    }

    fn enter<'g>(&self, member: &'g Member) -> Option<&'g Arc<Endpoint>> {
        let endpoint = &member.endpoint;
        let fits = !member.out && !tried(self.avoid, &endpoint.state);
        (fits && endpoint.state.enter(self.limit)).then_some(endpoint)
    }
}

fn tried(avoid: &[Arc<Endpoint>], state: &Arc<State>) -> bool {
    avoid.iter().any(|endpoint| Arc::ptr_eq(&endpoint.state, state))
}

/// Part of `count` that the upper half of a word says.
fn high(word: u64, count: usize) -> usize {
    scale((word >> 32) as u32, count)
}

/// A member by weight.
fn by_chance(group: &Group, word: u64) -> usize {
    match &group.table {
        Table::Alias(alias) => alias.draw(word),
        Table::Even | Table::Steps(_) | Table::Ring(_) | Table::Maglev(_) => {
            high(word, group.members.len())
        }
    }
}

/// Another member than `first`, by weight where a second draw gives one.
fn another(group: &Group, first: usize, word: u64) -> usize {
    let count = group.members.len();
    if let Table::Alias(alias) = &group.table {
        let second = alias.draw(word);
        if second != first {
            return second;
        }
    }
    (first + 1 + high(mix(word), count - 1)) % count
}
