//! Quick probes for the leader: through the checker of the instance, by this node itself where that says nothing within
//! 500 ms or doubts what it sees. A node that doubts itself asks all others at once and takes the word of the checker, or
//! of the first that does not doubt; where there is none, what this node sees counts.

use super::{
    Checks,
    book::SHORT_BYTES,
    now::{How, WAIT_MAX, Wanted},
    peer::{ANSWER, request_out},
    probe::output::printable,
};
use crate::{
    lease::quick::{Answer, Asked, Quick},
    net::BoxFuture,
};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use rollcall_core::name::Label;
use rollcall_proto::internal::v1::ProbeNowResponse;
use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Three probes, a quarter of a second apart, each for at most a second.
const HOW: How =
    How { rounds: 3, gap: Duration::from_millis(250), timeout: Duration::from_secs(1) };
/// A round of another node must be told within this: the pause before it, its probes, which may have to wait for their
/// moment, and some room.
const ROUND: Duration =
    HOW.gap.saturating_add(WAIT_MAX).saturating_add(HOW.timeout).saturating_add(ROOM);
const ROOM: Duration = Duration::from_millis(200);

/// Failed checks, and what was seen of each.
type Seen = BTreeMap<usize, String>;

impl Quick for Checks {
    fn ask(&self, asked: Asked) -> BoxFuture<'static, Answer> {
        let checks = self.clone();
        Box::pin(async move { checks.probe_quickly(asked).await })
    }
}

impl Checks {
    async fn probe_quickly(&self, asked: Asked) -> Answer {
        let (critical, checker, others) = {
            let seen = self.0.view.load();
            let state = &seen.state;
            let record = state.by_generation(asked.generation);
            let Some(record) = record.filter(|record| state.basis(record) == asked.basis) else {
                return Answer::Unknown;
            };
            let critical = state.checks(record).filter(|check| !check.advisory);
            let critical: Vec<Label> = critical.map(|check| check.id.clone()).collect();
            (critical, state.checkers().of(&asked.name), self.other_checkers())
        };
        if critical.is_empty() {
            return Answer::Unknown;
        }
        let wanted = critical
            .iter()
            .map(|check| Wanted { generation: asked.generation, check: check.clone() });
        let wanted: Vec<Wanted> = wanted.collect();
        let mut nodes = others;
        match self.doubts_itself() {
            true => nodes.sort_by_key(|node| Some(*node) != checker),
            false => nodes.retain(|node| Some(*node) == checker),
        }
        let seen = match self.probe_there(nodes, &wanted).await {
            Some(seen) => Some(seen),
            None => self.probe_here(&wanted).await,
        };
        seen.map_or(Answer::Unknown, |seen| answer(&critical, seen))
    }

    /// Which of these fail in every round, by this node's own probes. `None`: some were not probed.
    async fn probe_here(&self, wanted: &[Wanted]) -> Option<Seen> {
        let mut rounds = self.probe_now(wanted.to_vec(), HOW);
        let mut failed = Seen::new();
        while let Some(round) = rounds.next().await {
            for (at, report) in round {
                let report = report?;
                if report.passed() {
                    return Some(Seen::new());
                }
                failed.insert(at, printable(report.output.as_bytes(), SHORT_BYTES));
            }
        }
        Some(failed)
    }

    /// As [`Checks::probe_here`], by the first of these nodes that has begun within 500 ms and does not doubt itself.
    /// `None`: there is none, or it has not told to the end.
    async fn probe_there(&self, nodes: Vec<u64>, wanted: &[Wanted]) -> Option<Seen> {
        let all = nodes.len().max(1);
        let begin = |node: u64| {
            async move {
                let begun = timeout(ANSWER, self.begin_there(node, wanted)).await;
                let begun = begun.unwrap_or_else(|_| {
                    Err(Status::deadline_exceeded("it did not answer in time"))
                });
                told(node, begun).flatten().map(|answers| (node, answers))
            }
            .boxed()
        };
        let begins: Vec<_> = nodes.into_iter().map(begin).collect();
        let (node, answers) = {
            // The others are let go with it: one is enough.
            let mut begun = pin!(stream::iter(begins).buffered(all).filter_map(std::future::ready));
            let first = begun.next().await;
            first?
        };
        told(node, hear(answers).await).flatten()
    }

    /// Asks another node. `None`: it doubts what it sees, or says nothing.
    async fn begin_there(
        &self,
        node: u64,
        wanted: &[Wanted],
    ) -> Result<Option<Streaming<ProbeNowResponse>>, Status> {
        let gone = || Status::unavailable("it is no member any more");
        let mut client = self.peer(node).ok_or_else(gone)?;
        let mut answers = client.probe_now(request_out(wanted, HOW)).await?.into_inner();
        let begun = answers.message().await?;
        Ok(begun.is_some_and(|begun| !begun.doubts).then_some(answers))
    }
}

fn told<T>(node: u64, result: Result<T, Status>) -> Option<T> {
    let quiet = |status: &Status| {
        tracing::debug!(%status, node = format!("{node:016x}"), "quick probes");
    };
    result.inspect_err(quiet).ok()
}

/// What another node saw. `None`: it could not probe, or ended before its last round.
async fn hear(
    answers: impl Stream<Item = Result<ProbeNowResponse, Status>>,
) -> Result<Option<Seen>, Status> {
    let mut answers = pin!(answers);
    let mut failed = Seen::new();
    let silent = |_| Status::deadline_exceeded("it fell silent");
    while let Some(answer) = timeout(ROUND, answers.next()).await.map_err(silent)? {
        let answer = answer?;
        for result in answer.results {
            if !result.probed {
                return Ok(None);
            }
            if result.failure.is_empty() {
                return Ok(Some(Seen::new()));
            }
            let at = usize::try_from(result.item).unwrap_or(usize::MAX);
            failed.insert(at, printable(result.output.as_bytes(), SHORT_BYTES));
        }
        if answer.round == HOW.rounds {
            return Ok((!failed.is_empty()).then_some(failed));
        }
    }
    // A stream that ends early, as when its node stops, is no proof of anything.
    Ok(None)
}

fn answer(critical: &[Label], failed: Seen) -> Answer {
    if failed.is_empty() {
        return Answer::Alive;
    }
    let seen = critical.iter().enumerate().map(|(at, check)| {
        let text: Arc<str> = failed.get(&at).map_or("", String::as_str).into();
        failed.contains_key(&at).then_some((check.clone(), text))
    });
    // One that was not seen at all leaves the question open.
    seen.collect::<Option<Vec<_>>>().map_or(Answer::Unknown, Answer::Dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_proto::internal::v1::probe_now_response::Result as ProbeResult;

    fn round(round: u32, failures: &[&str]) -> Result<ProbeNowResponse, Status> {
        let result = |(item, failure): (usize, &&str)| ProbeResult {
            item: item.try_into().unwrap(),
            probed: true,
            failure: (*failure).into(),
            output: "seen".into(),
        };
        let results = failures.iter().enumerate().map(result).collect();
        Ok(ProbeNowResponse { round, results, doubts: false })
    }

    async fn heard(rounds: Vec<Result<ProbeNowResponse, Status>>) -> Option<Seen> {
        hear(stream::iter(rounds)).await.unwrap()
    }

    #[tokio::test]
    async fn another_node_is_believed_when_it_has_told_to_the_end() {
        let fails = |at| round(at, &["refused", "timeout"]);
        let both = Seen::from([(0, "seen".to_owned()), (1, "seen".to_owned())]);
        assert_eq!(heard(vec![fails(1), fails(2), fails(3)]).await, Some(both));
        assert_eq!(heard(vec![fails(1), round(2, &["refused", ""])]).await, Some(Seen::new()));
        // It stopped, or was stopped: nothing is known.
        assert_eq!(heard(vec![]).await, None);
        assert_eq!(heard(vec![round(1, &[])]).await, None);
        assert_eq!(heard(vec![fails(1), fails(2)]).await, None);
        let mut untold = round(1, &["refused"]).unwrap();
        untold.results[0].probed = false;
        assert_eq!(heard(vec![Ok(untold), fails(2), fails(3)]).await, None);
        let broken = vec![fails(1), Err(Status::unavailable("gone"))];
        assert!(hear(stream::iter(broken)).await.is_err());
    }

    #[tokio::test]
    async fn one_that_falls_silent_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let silent = stream::iter([round(1, &["refused"])]).chain(stream::pending());
        assert!(timeout(Duration::from_secs(30), hear(silent)).await.expect("an end").is_err());
        assert!(begun.elapsed() >= ROUND);
        // What it has told before that is proof enough.
        let told = [round(1, &["refused"]), round(2, &["refused"]), round(3, &["refused"])];
        let silent = stream::iter(told).chain(stream::pending());
        let seen = timeout(Duration::from_secs(30), hear(silent)).await.expect("an end").unwrap();
        assert_eq!(seen, Some(Seen::from([(0, "seen".to_owned())])));
    }

    #[test]
    fn only_what_failed_altogether_is_dead() {
        let critical = ["a", "b"].map(|id| Label::parse("check_id", id).unwrap());
        assert_eq!(answer(&critical, Seen::new()), Answer::Alive);
        let one = Seen::from([(0, "refused".to_owned())]);
        assert_eq!(answer(&critical, one.clone()), Answer::Unknown);
        let mut both = one;
        both.insert(1, "timeout".to_owned());
        let dead = critical.into_iter().zip([Arc::from("refused"), Arc::from("timeout")]);
        assert_eq!(
            answer(&["a", "b"].map(|id| Label::parse("check_id", id).unwrap()), both),
            Answer::Dead(dead.collect())
        );
    }
}
