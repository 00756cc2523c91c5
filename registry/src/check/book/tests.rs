//! When targets are due, what is told of them, what is kept: by a clock made of numbers.

use super::*;
use rollcall_core::{
    Command, Stamped,
    check::{Checks, Failure, Probe},
    command::{Register, Registration, ReportHealth, SetCheckers, Source},
    instance::{Endpoint, Spec, Transport},
    name::InstanceName,
    record::Actor,
};

const ME: u64 = 7;

/// A catalogue, the book of its only checker, and the time.
struct Rig {
    state: State,
    book: Book,
    now: u64,
    /// When each probe began.
    begun: Vec<(u64, Key)>,
}

fn check(interval_ms: u64) -> Check {
    let id = Label::parse("check_id", "tcp").unwrap();
    let mut check = Check::new(id, Probe::Tcp { tls: false });
    check.interval = Duration::from_millis(interval_ms);
    check.timeout = check.timeout.min(check.interval);
    check
}

fn report(failure: Option<Failure>) -> Report {
    let probed = Probed { failure, latency: Duration::from_millis(1) };
    Report { probed, output: failure.map_or("fine", Failure::as_str).into() }
}

impl Rig {
    fn new() -> Self {
        let pace = Pace::new(false);
        let book = Book::new(pace, Random::new(5));
        let mut rig = Self { state: State::new(1_000), book, now: 1_000_000, begun: Vec::new() };
        rig.apply(Command::SetCheckers(SetCheckers { epoch: 1, nodes: vec![ME], actor: actor() }));
        rig
    }

    fn apply(&mut self, command: Command) {
        let applied = self.state.apply(&Stamped { wall_ms: 0, advance_ms: 0, command });
        applied.outcome.result.expect("it is taken");
    }

    /// Lists instance `number` at an address of its own; returns its generation.
    fn register(&mut self, number: u32, check: Check) -> u64 {
        let [_, a, b, c] = number.to_be_bytes();
        self.register_at(number, SocketAddr::from(([10, a, b, c], 80)), check)
    }

    fn register_at(&mut self, number: u32, address: SocketAddr, check: Check) -> u64 {
        let endpoint = Endpoint {
            name: Label::parse("name", "http").unwrap(),
            address,
            transport: Transport::Tcp,
            app_protocol: "".into(),
        };
        let mut spec = Spec::new(vec![endpoint]).unwrap();
        (spec.ttl, spec.checks) = (None, Checks::parse(vec![check]).unwrap());
        let name = InstanceName::parse("", "web", &format!("i{number}")).unwrap();
        let item = Registration {
            name: name.clone(),
            spec: spec.checked().unwrap().into(),
            nonce: u128::from(number),
            held_generation: 0,
            expected_revision: None,
        };
        self.apply(Command::Register(Register {
            items: vec![item],
            actor: actor(),
            request_id: None,
            address_limit: false,
        }));
        self.state.instance(&name).unwrap().generation
    }

    fn take_up(&mut self, generation: u64) -> Vec<Key> {
        let record = self.state.by_generation(generation).unwrap().clone();
        self.book.take_up(&self.state, &record, self.now)
    }

    /// Tells the catalogue what the book thinks of a check, and shows the book what came of it.
    fn tell(&mut self, key: &Key) -> Opinion {
        let finding = self.book.finding(key).expect("there is news");
        let opinion = finding.opinion;
        let source = Source::Checker { node: ME, epoch: 1 };
        let report = ReportHealth { source, items: vec![finding], actor: actor() };
        self.apply(Command::ReportHealth(report));
        self.take_up(key.0);
        opinion
    }

    /// Lets time pass in steps of 10 ms; every probe ends at once with what `of` says. Returns what has to be told.
    fn pass(&mut self, ms: u64, of: impl Fn(&Key) -> Option<Failure>) -> Vec<Key> {
        let mut to_tell = Vec::new();
        for _ in 0..ms / 10 {
            self.now += 10;
            while let Some(job) = self.book.next_job(self.now) {
                self.begun.push((self.now, job.key.clone()));
                if self.book.finish(&job, report(of(&job.key)), 0, self.now) {
                    to_tell.push(job.key);
                }
            }
        }
        to_tell
    }
}

fn actor() -> Actor {
    Actor::Registry("test".into())
}

#[test]
fn a_new_instance_is_probed_at_once_then_every_second_until_it_passes() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(10_000));
    assert_eq!(rig.take_up(generation), []);
    let start = rig.now;
    assert_eq!(rig.pass(3_500, |_| Some(Failure::Refused)), []);
    let begun: Vec<u64> = rig.begun.iter().map(|(at, _)| at - start).collect();
    assert_eq!(begun, [10, 1_000, 2_000, 3_000]);
    let told = rig.pass(1_000, |_| None);
    assert_eq!(told.len(), 1);
    assert_eq!(rig.tell(&told[0]), Opinion::PASSING);
    assert_eq!(rig.book.finding(&told[0]), None);
}

#[test]
fn regular_probes_come_once_an_interval_with_little_jitter_and_are_spread() {
    let mut rig = Rig::new();
    for number in 1..=500 {
        let generation = rig.register(number, check(10_000));
        rig.take_up(generation);
    }
    rig.pass(100, |_| None);
    assert_eq!(rig.begun.len(), 500, "all at once at first");
    rig.begun.clear();
    rig.pass(100_000, |_| None);
    let mut of: BTreeMap<&Key, Vec<u64>> = BTreeMap::new();
    for (at, key) in &rig.begun {
        of.entry(key).or_default().push(*at);
    }
    assert_eq!(of.len(), 500);
    for times in of.values() {
        assert!((9..=11).contains(&times.len()), "{times:?}");
        for pair in times.windows(2) {
            // Two jitters of 5 %, and the step of this test.
            assert!((9_000..=11_010).contains(&(pair[1] - pair[0])), "{times:?}");
        }
    }
    let mut seconds = [0; 100];
    let start = rig.now - 100_000;
    for (at, _) in &rig.begun {
        seconds[usize::try_from((at - start - 1) / 1_000).unwrap()] += 1;
    }
    // 50 a second on average; a Poisson count is above 100 once in 10^9.
    assert!(seconds[20..].iter().all(|count| (15..100).contains(count)), "{seconds:?}");
}

#[test]
fn what_is_taken_over_is_probed_within_one_interval_and_starts_from_its_status() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(10_000));
    rig.take_up(generation);
    let told = rig.pass(10, |_| None);
    rig.tell(&told[0]);
    let (now, mut latest) = (rig.now, 0);
    for seed in 0..50 {
        // Another node takes it over.
        rig.book = Book::new(Pace::new(false), Random::new(seed));
        rig.now = now + seed * 1_234;
        assert_eq!(rig.take_up(generation), []);
        let due = rig.book.next_due().unwrap();
        assert!(due > rig.now && due <= rig.now + 10_000);
        latest = latest.max(due - rig.now);
        rig.pass(10_010, |_| Some(Failure::Timeout));
        let shown = rig.book.show(generation, rig.now);
        assert_eq!(shown[0].opinion, Opinion::PASSING, "one failure is not three");
    }
    assert!(latest > 5_000, "spread over the interval");
}

#[test]
fn a_target_that_many_share_is_probed_late_and_never_failed() {
    let mut rig = Rig::new();
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    for number in 1..=40 {
        let generation = rig.register_at(number, address, check(1_000));
        rig.take_up(generation);
    }
    rig.pass(20_000, |_| None);
    let times: Vec<u64> = rig.begun.iter().map(|(at, _)| *at).collect();
    for window in times.windows(11) {
        assert!(window[10] - window[0] >= 1_000, "more than ten a second");
    }
    let probed: std::collections::BTreeSet<&Key> = rig.begun.iter().map(|(_, key)| key).collect();
    assert_eq!(probed.len(), 40, "nobody starves");
    assert!(times.len() >= 190, "{}", times.len());
}

#[test]
fn a_verdict_that_was_not_taken_is_told_again() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(1_000));
    rig.take_up(generation);
    let key = rig.pass(10, |_| None).remove(0);
    // The batch that held it was lost; whenever the book is shown the instance again, it says so again.
    assert!(rig.book.finding(&key).is_some());
    assert_eq!(rig.take_up(generation), std::slice::from_ref(&key));
    assert_eq!(rig.tell(&key), Opinion::PASSING);
}

#[test]
fn a_verdict_of_quick_probes_is_taken_over_and_looked_at_soon() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(60_000));
    rig.take_up(generation);
    let key = rig.pass(10, |_| None).remove(0);
    rig.tell(&key);
    rig.pass(1_000, |_| None);
    let basis = rig.state.basis(rig.state.by_generation(generation).unwrap());
    let opinion = Opinion { verdict: Verdict::Failing, ..Opinion::PASSING };
    let item =
        Finding { generation, basis, check: key.1.clone(), opinion, evidence: "quick".into() };
    let report = ReportHealth { source: Source::Quick, items: vec![item], actor: actor() };
    rig.apply(Command::ReportHealth(report));
    assert_eq!(rig.take_up(generation), []);
    let told = rig.pass(1_100, |_| None);
    assert_eq!(told, std::slice::from_ref(&key));
    assert_eq!(rig.tell(&key), Opinion::PASSING);
}

#[test]
fn a_changed_check_begins_anew_and_a_given_up_one_is_gone() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(1_000));
    rig.take_up(generation);
    rig.pass(10, |_| None);
    let other = rig.register(1, check(2_000));
    rig.take_up(other);
    rig.book.drop_instance(if other == generation { 0 } else { generation });
    assert_eq!(rig.book.generations(), [other]);
    assert!(rig.book.show(other, rig.now)[0].kept.is_empty());
    rig.book.drop_instance(other);
    assert_eq!((rig.book.len(), rig.book.kept_bytes), (0, 0));
    assert_eq!(rig.pass(5_000, |_| None), []);
}

#[test]
fn the_last_five_outputs_are_kept() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(1_000));
    rig.take_up(generation);
    rig.pass(8_000, |_| None);
    rig.pass(1_100, |_| Some(Failure::Closed));
    let shown = rig.book.show(generation, rig.now).remove(0);
    assert_eq!(shown.kept.len(), OUTPUTS_MAX);
    assert_eq!(&*shown.kept[4].text, "closed");
    assert_eq!(&*shown.kept[0].text, "fine");
    assert!(shown.next <= Duration::from_millis(1_050));
}

#[test]
fn outputs_are_kept_short_when_there_are_too_many() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(1_000));
    rig.take_up(generation);
    rig.book.kept_bytes = OUTPUT_BYTES_TOTAL + 1;
    rig.now += 10;
    let job = rig.book.next_job(rig.now).unwrap();
    let long = Report { output: "x".repeat(4_000).into(), ..report(None) };
    rig.book.finish(&job, long, 0, rig.now);
    assert_eq!(rig.book.show(generation, rig.now)[0].kept[0].text.len(), SHORT_BYTES);
}

#[test]
fn a_result_that_comes_too_late_is_not_counted() {
    let mut rig = Rig::new();
    let generation = rig.register(1, check(1_000));
    rig.take_up(generation);
    rig.now += 10;
    let job = rig.book.next_job(rig.now).unwrap();
    let other = rig.register(1, check(2_000));
    rig.book.drop_instance(generation);
    rig.take_up(other);
    assert!(!rig.book.finish(&job, report(None), 0, rig.now));
    assert!(rig.book.show(other, rig.now)[0].kept.is_empty());
}
