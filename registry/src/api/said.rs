//! What the owners on one heartbeat stream say of themselves, and what of it the catalogue has to be told.
//!
//! A word is passed on until it stands there. Figures are passed on coarsely: readers want to know who is busy, and
//! every change is an entry of the log.

use rollcall_core::{
    State,
    command::{Figure, SelfReport},
    instance::limit::FINDINGS,
    signals::Utilization,
};
use rollcall_proto::convert::OwnWord;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Instances of one stream with something to be passed on; what others say is heard again with a later beat.
const WORDS: usize = 20_000;
/// A figure that differs by less is not passed on; percentage points.
const COARSE: u32 = 10;
/// The figure of one instance is passed on this often at most.
const FIGURE_EVERY: Duration = Duration::from_secs(5);
/// Another text of an instance that serves badly as before is passed on this often at most: each is an event.
const TEXT_EVERY: Duration = Duration::from_secs(5);

/// By lease handle.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<u64, Word>);

#[derive(Debug)]
struct Word {
    said: OwnWord,
    /// When its figure was passed on last.
    figure_at: Option<Instant>,
    /// When its health was passed on last.
    health_at: Option<Instant>,
}

impl Word {
    fn may_tell_figure(&self, now: Instant) -> bool {
        self.figure_at.is_none_or(|at| now.saturating_duration_since(at) >= FIGURE_EVERY)
    }

    fn may_tell_text(&self, now: Instant) -> bool {
        self.health_at.is_none_or(|at| now.saturating_duration_since(at) >= TEXT_EVERY)
    }
}

impl Said {
    /// Takes what an owner says; it replaces what it said before.
    pub(super) fn hear(&mut self, said: OwnWord) {
        if let Some(word) = self.0.get_mut(&said.handle) {
            word.said = said;
        } else if self.0.len() < WORDS {
            self.0.insert(said.handle, Word { said, figure_at: None, health_at: None });
        }
    }

    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the catalogue does not say yet, together at most as many as one command takes, and what is said no more
    /// is forgotten. A health that is refused or lost is told again with the next call, a figure or another text after
    /// 5 s.
    pub(super) fn due(&mut self, state: &State, now: Instant) -> (Vec<SelfReport>, Vec<Figure>) {
        let (mut items, mut figures) = (Vec::new(), Vec::new());
        self.0.retain(|handle, word| {
            let Some(record) = state.by_generation(*handle) else { return false };
            let stands = record.signals.heard().and_then(|heard| heard.self_report.as_ref());
            let degraded = &word.said.degraded;
            let differs = stands != degraded.as_ref();
            let in_text_alone = stands.is_some() && degraded.is_some();
            let waits = in_text_alone && !word.may_tell_text(now);
            if differs && !waits && items.len() < FINDINGS {
                items.push(SelfReport { generation: *handle, degraded: degraded.clone() });
                word.health_at = Some(now);
            }
            let (before, utilization) = (state.utilization(record), word.said.utilization);
            let moved = is_coarse(before, utilization);
            if moved && word.may_tell_figure(now) && figures.len() < FINDINGS {
                figures.push((*handle, utilization));
            }
            // Whose word was just passed on is remembered, so that the next one waits.
            differs || moved || !word.may_tell_figure(now) || !word.may_tell_text(now)
        });
        figures.truncate(FINDINGS - items.len());
        let tell = |(generation, utilization): (u64, Option<Utilization>)| {
            if let Some(word) = self.0.get_mut(&generation) {
                word.figure_at = Some(now);
            }
            Figure { generation, utilization }
        };
        let figures = figures.into_iter().map(tell).collect();
        (items, figures)
    }
}

/// Whether readers should hear of the change: it is one of 10 points or more, or to or from unknown.
fn is_coarse(before: Option<Utilization>, now: Option<Utilization>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before.percent().abs_diff(now.percent()) >= COARSE,
        (before, now) => before.is_some() != now.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_core::{
        Command, Stamped,
        command::{Register, Registration, ReportSelf},
        instance::{Endpoint, Spec, Transport, Ttl, limit},
        name::{InstanceName, Label},
        record::Actor,
    };
    use std::sync::Arc;

    fn send(state: &mut State, command: Command) {
        state.apply(&Stamped { wall_ms: 1, advance_ms: 1, command }).outcome.result.unwrap();
    }

    /// So many instances: their generations are 1, 2, 3, ...
    fn instances(count: usize) -> State {
        let endpoint = Endpoint {
            name: Label::parse("name", "http").unwrap(),
            address: "10.0.0.1:80".parse().unwrap(),
            transport: Transport::Tcp,
            app_protocol: "".into(),
        };
        let ttl = Some(Ttl::parse(Duration::from_secs(10)).unwrap());
        let spec = Arc::new(Spec { ttl, ..Spec::new(vec![endpoint]).unwrap() });
        let mut state = State::new(10);
        let item = |i| Registration {
            name: InstanceName::parse("", "web", &format!("i{i}")).unwrap(),
            spec: spec.clone(),
            nonce: i as u128 + 1,
            held_generation: 0,
            expected_revision: None,
        };
        let items: Vec<Registration> = (0..count).map(item).collect();
        for items in items.chunks(limit::BATCH) {
            let (items, actor) = (items.to_vec(), Actor::Owner("".into()));
            let register = Register { items, actor, request_id: None, address_limit: false };
            send(&mut state, Command::Register(register));
        }
        state
    }

    fn word(handle: u64, degraded: Option<&str>, percent: Option<u32>) -> OwnWord {
        let utilization = percent.and_then(Utilization::new);
        OwnWord { handle, degraded: degraded.map(Into::into), utilization }
    }

    /// What is due, in percent; it is committed.
    fn pass(said: &mut Said, state: &mut State, now: Instant) -> Vec<(u64, Option<u32>)> {
        let (items, figures) = said.due(state, now);
        let percent = |f: &Figure| (f.generation, f.utilization.map(Utilization::percent));
        let told = figures.iter().map(percent).collect();
        if !items.is_empty() || !figures.is_empty() {
            let report = ReportSelf { items, figures, actor: Actor::Owner("".into()) };
            send(state, Command::ReportSelf(report));
        }
        told
    }

    #[test]
    fn small_changes_of_a_figure_are_kept_back_and_those_that_add_up_are_not() {
        let (mut said, mut state, start) = (Said::default(), instances(1), Instant::now());
        let mut told = Vec::new();
        for (i, percent) in (0..).zip(50..=75) {
            said.hear(word(1, None, Some(percent)));
            told.extend(pass(&mut said, &mut state, start + FIGURE_EVERY * i));
        }
        assert_eq!(told, [(1, Some(50)), (1, Some(60)), (1, Some(70))]);
        said.hear(word(1, None, None));
        assert_eq!(pass(&mut said, &mut state, start + FIGURE_EVERY * 99), [(1, None)]);
        assert_eq!(pass(&mut said, &mut state, start + FIGURE_EVERY * 100), []);
        assert!(said.is_empty());
    }

    #[test]
    fn a_text_that_changes_all_the_time_is_passed_on_every_5_seconds_and_health_at_once() {
        let (mut said, mut state, start) = (Said::default(), instances(1), Instant::now());
        let mut told = Vec::new();
        let mut hear = |second: u32, degraded: Option<&str>| {
            said.hear(word(1, degraded, None));
            let before = state.revision();
            pass(&mut said, &mut state, start + Duration::from_secs(second.into()));
            if state.revision() > before {
                told.push((second, degraded.map(str::to_owned)));
            }
        };
        for second in 0..12 {
            hear(second, Some(&format!("queue of {second}")));
        }
        hear(12, None);
        hear(13, Some("slow"));
        let slow = |second: u32| (second, Some(format!("queue of {second}")));
        let expected = [slow(0), slow(5), slow(10), (12, None), (13, Some("slow".to_owned()))];
        assert_eq!(told, expected);
        for second in [14, 19] {
            pass(&mut said, &mut state, start + Duration::from_secs(second));
        }
        assert!(said.is_empty(), "what stands for a while is forgotten");
    }

    #[test]
    fn a_figure_that_jumps_all_the_time_is_passed_on_every_5_seconds_as_it_is_then() {
        let (mut said, mut state, start) = (Said::default(), instances(1), Instant::now());
        let mut told = Vec::new();
        for second in 0..20_u32 {
            said.hear(word(1, None, Some(if second % 2 == 0 { second } else { 100 - second })));
            let now = start + Duration::from_secs(second.into());
            told.extend(
                pass(&mut said, &mut state, now).into_iter().map(|(_, busy)| (second, busy)),
            );
        }
        assert_eq!(told, [(0, Some(0)), (5, Some(95)), (10, Some(10)), (15, Some(85))]);
    }

    #[test]
    fn health_does_not_wait_for_a_figure_that_was_just_passed_on() {
        let (mut said, mut state, now) = (Said::default(), instances(1), Instant::now());
        said.hear(word(1, None, Some(20)));
        assert_eq!(pass(&mut said, &mut state, now), [(1, Some(20))]);
        said.hear(word(1, Some("slow"), Some(90)));
        let (items, figures) = said.due(&state, now + Duration::from_secs(1));
        assert_eq!((items.len(), items[0].degraded.as_deref()), (1, Some("slow")));
        assert_eq!(figures, []);
    }

    #[test]
    fn more_than_a_command_takes_waits_for_the_next_one() {
        let (mut said, mut state, now) = (Said::default(), instances(FINDINGS + 2), Instant::now());
        for handle in 1..=FINDINGS as u64 + 2 {
            said.hear(word(handle, (handle <= 3).then_some("slow"), Some(50)));
        }
        let (items, figures) = said.due(&state, now);
        assert_eq!((items.len(), figures.len()), (3, FINDINGS - 3));
        let report = ReportSelf { items, figures, actor: Actor::Owner("".into()) };
        send(&mut state, Command::ReportSelf(report));
        let rest = pass(&mut said, &mut state, now + Duration::from_secs(1));
        assert_eq!(rest.len(), 5);
        assert_eq!(state.utilizations().values().map(|one| one.len()).sum::<usize>(), FINDINGS + 2);
    }

    #[test]
    fn a_stream_remembers_only_so_many_words_and_none_of_who_is_gone() {
        let mut said = Said::default();
        for handle in 0..WORDS as u64 + 5 {
            said.hear(word(handle, None, Some(50)));
        }
        assert_eq!(said.0.len(), WORDS);
        assert_eq!(said.due(&instances(0), Instant::now()), (vec![], vec![]));
        assert!(said.is_empty());
    }
}
