//! What must hold for every DNS answer. Pure: answers in, broken promises out.

use crate::invariants::Violation;
use std::{collections::BTreeMap, time::Duration};

/// An answer that does not say that it is stale shows all that was acknowledged so long before it was asked for: the
/// time after which a node calls itself stale, the pace at which it looks, and the way of the question.
const FRESH: Duration = Duration::from_millis(2_200);
const NOERROR: u16 = 0;
const SERVFAIL: u16 = 2;

/// One answer for the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answered, and in which life of it.
    pub node: usize,
    /// Number of that life.
    pub boot: u64,
    /// When it was asked for, in simulated time.
    pub sent: Duration,
    /// Response code.
    pub code: u16,
    /// The rounds of its records, in order.
    pub rounds: Vec<u16>,
    /// Whether it says that it is stale.
    pub stale: bool,
}

/// Judges answers in the order in which they come.
#[derive(Debug, Default)]
pub struct Judge {
    /// Rounds that were acknowledged, and when.
    acknowledged: Vec<(Duration, u16)>,
    /// The highest round that each life of a node has shown.
    shown: BTreeMap<(usize, u64), u16>,
    /// Lives that have answered with something else than SERVFAIL.
    awake: BTreeMap<(usize, u64), ()>,
    violations: Vec<Violation>,
    answers: u64,
    stale: u64,
}

impl Judge {
    /// The client was told that this round is registered.
    pub fn acknowledged(&mut self, round: u16, at: Duration) {
        self.acknowledged.push((at, round));
    }

    /// A reply that is no DNS.
    pub fn unreadable(&mut self, node: usize, why: &str) {
        self.broken("a reply can be read", format!("n{}: {why}", node + 1));
    }

    /// Judges one answer.
    pub fn look(&mut self, answer: &Answer) {
        self.answers += 1;
        self.stale += u64::from(answer.stale);
        let life = (answer.node, answer.boot);
        let seen = || format!("{answer:?}");
        if answer.code == SERVFAIL {
            if self.awake.contains_key(&life) {
                self.broken("a node that once had a state never answers SERVFAIL", seen());
            }
            return;
        }
        self.awake.insert(life, ());
        let known = self.shown.get(&life).copied();
        match (answer.rounds.as_slice(), known) {
            // It has not heard of the pair yet.
            ([], None) => {}
            ([one, other], _) if one == other && answer.code == NOERROR => {
                if known.is_some_and(|known| *one < known) {
                    self.broken(
                        "answers of one node never go back",
                        format!("{known:?}, {}", seen()),
                    );
                }
                self.shown.insert(life, *one);
            }
            ([], Some(_)) => self.broken("an answer is never empty while instances live", seen()),
            _ => self.broken("an answer belongs to one revision", seen()),
        }
        let due = self.acknowledged.iter().rev().find(|(at, _)| *at + FRESH < answer.sent);
        if let Some((at, round)) = due
            && !answer.stale
            && answer.rounds.first().is_none_or(|shown| shown < round)
        {
            let seen = format!("round {round} was acknowledged at {at:?}; {answer:?}");
            self.broken("an answer that is behind says so", seen);
        }
    }

    fn broken(&mut self, invariant: &'static str, seen: String) {
        self.violations.push(Violation { invariant, seen });
    }

    /// The promises that were broken since the last call.
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// How many answers there were, and how many said that they were stale.
    pub fn counts(&self) -> (u64, u64) {
        (self.answers, self.stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sent_ms: u64, code: u16, rounds: &[u16], stale: bool) -> Answer {
        let sent = Duration::from_millis(sent_ms);
        Answer { node: 0, boot: 1, sent, code, rounds: rounds.to_vec(), stale }
    }

    fn judged(answers: &[Answer]) -> Vec<&'static str> {
        let mut judge = Judge::default();
        judge.acknowledged(5, Duration::from_secs(1));
        answers.iter().for_each(|answer| judge.look(answer));
        judge.take().iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn what_is_promised_is_no_violation() {
        let fine = [
            answer(0, SERVFAIL, &[], false),
            answer(1, 3, &[], false),
            answer(2, NOERROR, &[4, 4], false),
            answer(3_100, NOERROR, &[4, 4], false),
            answer(9_000, NOERROR, &[4, 4], true),
            answer(9_001, NOERROR, &[5, 5], false),
        ];
        assert_eq!(judged(&fine), Vec::<&str>::new());
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let first = answer(1, NOERROR, &[5, 5], false);
        let cases = [
            (
                answer(2, SERVFAIL, &[], false),
                "a node that once had a state never answers SERVFAIL",
            ),
            (answer(2, NOERROR, &[], true), "an answer is never empty while instances live"),
            (answer(2, 3, &[], true), "an answer is never empty while instances live"),
            (answer(2, NOERROR, &[5], true), "an answer belongs to one revision"),
            (answer(2, NOERROR, &[5, 6], true), "an answer belongs to one revision"),
            (answer(2, NOERROR, &[4, 4], true), "answers of one node never go back"),
        ];
        for (wrong, invariant) in cases {
            assert_eq!(judged(&[first.clone(), wrong.clone()]), [invariant], "{wrong:?}");
        }
        let behind = answer(3_300, NOERROR, &[4, 4], false);
        assert_eq!(judged(&[behind]), ["an answer that is behind says so"]);
        let behind = answer(3_300, 3, &[], false);
        assert_eq!(judged(&[behind]), ["an answer that is behind says so"]);
    }
}
