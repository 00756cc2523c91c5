//! The judge of one check: results and time in, verdict out, by rise and fall.
//!
//! Time is milliseconds on the checker's monotonic clock and always an argument. Whoever takes a check over goes on
//! from the verdict that the catalogue holds; only the count of results since the last change is lost.

use super::{Check, Verdict};
use std::time::Duration;

/// What one probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Why it failed; `None` = it succeeded.
    pub failure: Option<Failure>,
    /// Time that it took.
    pub latency: Duration,
}

/// Why a probe failed. Stable words: they stand in evidence and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The target refused the connection.
    Refused,
    /// No way leads there.
    Unreachable,
    /// No complete answer within the timeout.
    Timeout,
    /// The connection ended before the answer.
    Closed,
    /// The TLS handshake failed.
    Tls,
    /// The answer breaks the protocol, or a bound of the probe.
    Protocol,
    /// The answer is a redirect, which is never followed.
    Redirect,
    /// The answer has another code.
    Code,
    /// The body does not hold the text.
    Body,
    /// The gRPC health service says something else than SERVING.
    NotServing,
    /// The address must not be probed.
    Forbidden,
}

impl Failure {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Redirect => "redirect",
            Self::Code => "code",
            Self::Body => "body",
            Self::NotServing => "not_serving",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What is thought of a check: what the checker reports, and what the catalogue keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opinion {
    /// Passes or fails.
    pub verdict: Verdict,
    /// Its verdict has changed again and again of late.
    pub flapping: bool,
    /// It fails by quick probes after a lost heartbeat: one success is enough to pass again.
    pub hasty: bool,
}

impl Opinion {
    /// Of a check of which nothing is known.
    pub const STARTING: Self = Self { verdict: Verdict::Starting, flapping: false, hasty: false };
    /// Of a check that passes.
    pub const PASSING: Self = Self { verdict: Verdict::Passing, flapping: false, hasty: false };
}

/// Changes of verdict within the window that make a check flap.
const FLAPS: usize = 4;
/// Shortest window for them, ms.
const FLAP_WINDOW_MIN_MS: u64 = 60_000;

/// Counts results of one check.
#[derive(Debug, Clone)]
pub struct Judge {
    opinion: Opinion,
    /// Results in a row that speak against the verdict.
    against: u8,
    /// When the instance was registered, as far as this checker knows.
    started_ms: u64,
    /// When the verdict changed last, oldest first; 0 = it did not.
    changes: [u64; FLAPS],
}

impl Judge {
    /// Begins with what the catalogue holds. `age` = time since the registration, for the grace at the start.
    pub fn new(opinion: Opinion, age: Duration, now_ms: u64) -> Self {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let mut judge = Self {
            opinion,
            against: 0,
            started_ms: now_ms.saturating_sub(age_ms),
            changes: [0; FLAPS],
        };
        if opinion.flapping {
            // When it changed is not known here; it has to be quiet for a whole window.
            judge.changes[FLAPS - 1] = now_ms.max(1);
        }
        judge
    }

    /// What is thought now.
    pub fn opinion(&self) -> Opinion {
        self.opinion
    }

    /// Takes the next result, and returns the opinion where that has changed it.
    pub fn observe(&mut self, check: &Check, probed: &Probed, now_ms: u64) -> Option<Opinion> {
        let before = self.opinion;
        let success = probed.failure.is_none();
        let needed = match (self.opinion.verdict, success) {
            (Verdict::Passing, true) | (Verdict::Failing, false) => None,
            (Verdict::Starting, true) => Some(1),
            (Verdict::Failing, true) if self.opinion.hasty => Some(1),
            (Verdict::Failing, true) => Some(check.rise),
            (Verdict::Starting, false) if self.in_grace(check, now_ms) => None,
            (Verdict::Starting | Verdict::Passing, false) => Some(check.fall),
        };
        match needed {
            None => self.against = 0,
            Some(needed) => {
                self.against = self.against.saturating_add(1);
                if self.against >= needed {
                    self.change(success, now_ms);
                }
            }
        }
        self.opinion.flapping = self.flaps(check, now_ms);
        (self.opinion != before).then_some(self.opinion)
    }

    /// Time from the beginning of one probe to that of the next, without jitter.
    pub fn pace(&self, check: &Check) -> Duration {
        if self.opinion.verdict == Verdict::Starting || self.opinion.hasty {
            Check::STARTING_INTERVAL.min(check.interval)
        } else {
            check.interval
        }
    }

    fn in_grace(&self, check: &Check, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(self.started_ms)) < check.startup_grace.as_millis()
    }

    fn change(&mut self, success: bool, now_ms: u64) {
        self.against = 0;
        // The first verdict is not a change of mind.
        if self.opinion.verdict != Verdict::Starting {
            self.changes.rotate_left(1);
            self.changes[FLAPS - 1] = now_ms.max(1);
        }
        self.opinion.verdict = if success { Verdict::Passing } else { Verdict::Failing };
        self.opinion.hasty = false;
    }

    /// It flaps when it has changed [`FLAPS`] times within thrice the time that its rise and fall need for that, and
    /// until it has not changed for so long.
    fn flaps(&self, check: &Check, now_ms: u64) -> bool {
        let cycle = check.interval * (u32::from(check.rise) + u32::from(check.fall));
        let window = u64::try_from((cycle * 6).as_millis()).unwrap_or(u64::MAX);
        let window = window.max(FLAP_WINDOW_MIN_MS);
        let recent = |at: u64| at != 0 && now_ms.saturating_sub(at) < window;
        let [first, .., last] = self.changes;
        recent(first) || (self.opinion.flapping && recent(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::Probe, name::Label};

    /// A judge and what it is asked about, with a second between two results.
    struct Court {
        check: Check,
        judge: Judge,
        now_ms: u64,
    }

    impl Court {
        fn new(opinion: Opinion) -> Self {
            let id = Label::parse("check_id", "c").unwrap();
            let mut check = Check::new(id, Probe::Tcp { tls: false });
            check.interval = Duration::from_secs(1);
            Self { check, judge: Judge::new(opinion, Duration::ZERO, 100_000), now_ms: 100_000 }
        }

        fn hear(&mut self, success: bool) -> Option<Opinion> {
            self.now_ms += 1_000;
            let failure = (!success).then_some(Failure::Refused);
            let probed = Probed { failure, latency: Duration::ZERO };
            self.judge.observe(&self.check, &probed, self.now_ms)
        }

        /// The verdict after each result: `+` success, `-` failure; `P`, `F`, `S`.
        fn verdicts(&mut self, results: &str) -> String {
            let verdict = |court: &mut Self, result| {
                court.hear(result == '+');
                court.judge.opinion().verdict.as_str()[..1].to_owned()
            };
            results.chars().map(|result| verdict(self, result)).collect()
        }
    }

    #[test]
    fn a_verdict_needs_so_many_results_in_a_row() {
        let mut court = Court::new(Opinion::PASSING);
        assert_eq!(court.verdicts("--+---+-++"), "PPPPPFFFFP");
    }

    #[test]
    fn in_starting_one_success_is_enough() {
        let mut court = Court::new(Opinion::STARTING);
        assert_eq!(court.verdicts("--+"), "SSP");
    }

    #[test]
    fn failures_within_the_grace_do_not_count() {
        let mut court = Court::new(Opinion::STARTING);
        court.check.startup_grace = Duration::from_secs(5);
        assert_eq!(court.verdicts("---------"), "SSSSSSFFF");
        let mut none = Court::new(Opinion::STARTING);
        none.check.startup_grace = Duration::ZERO;
        assert_eq!(none.verdicts("---"), "SSF");
    }

    #[test]
    fn the_grace_counts_from_the_registration_not_from_the_change_of_checker() {
        let mut court = Court::new(Opinion::STARTING);
        court.judge = Judge::new(Opinion::STARTING, Duration::from_secs(29), court.now_ms);
        assert_eq!(court.verdicts("---"), "SSF");
    }

    #[test]
    fn a_new_checker_goes_on_from_the_verdict_of_the_old_one() {
        let mut failing = Court::new(Opinion { verdict: Verdict::Failing, ..Opinion::PASSING });
        assert_eq!(failing.verdicts("+-++"), "FFFP");
        let mut passing = Court::new(Opinion::PASSING);
        assert_eq!(passing.hear(true), None);
    }

    #[test]
    fn a_hasty_verdict_falls_with_the_first_success_and_is_probed_fast() {
        let hasty = Opinion { verdict: Verdict::Failing, flapping: false, hasty: true };
        let mut court = Court::new(hasty);
        court.check.interval = Duration::from_secs(10);
        assert_eq!(court.judge.pace(&court.check), Duration::from_secs(1));
        assert_eq!(court.hear(true), Some(Opinion::PASSING));
        assert_eq!(court.judge.pace(&court.check), Duration::from_secs(10));
    }

    #[test]
    fn only_a_change_is_told() {
        let mut court = Court::new(Opinion::STARTING);
        assert_eq!(court.hear(true), Some(Opinion::PASSING));
        assert_eq!(court.hear(true), None);
        assert_eq!(court.hear(false), None);
    }

    #[test]
    fn a_check_that_changes_again_and_again_flaps_until_it_is_quiet() {
        let mut court = Court::new(Opinion::PASSING);
        court.verdicts("---++---");
        assert!(!court.judge.opinion().flapping);
        assert_eq!(court.hear(true), None);
        let flapping = court.hear(true).expect("the fourth change");
        assert!(flapping.flapping && flapping.verdict == Verdict::Passing);
        let told: Vec<Opinion> = (0..70).filter_map(|_| court.hear(true)).collect();
        assert_eq!(told, [Opinion::PASSING]);
    }

    #[test]
    fn a_slow_change_now_and_then_is_no_flapping() {
        let mut court = Court::new(Opinion::PASSING);
        for _ in 0..10 {
            court.verdicts("---");
            court.verdicts(&"+".repeat(80));
            assert!(!court.judge.opinion().flapping);
        }
    }

    #[test]
    fn flapping_goes_on_with_a_new_checker_until_it_is_quiet() {
        let mut court = Court::new(Opinion { flapping: true, ..Opinion::PASSING });
        assert!(court.judge.opinion().flapping);
        let told: Vec<Opinion> = (0..70).filter_map(|_| court.hear(true)).collect();
        assert_eq!(told, [Opinion::PASSING]);
    }
}
