//! Quick probes for the leader: through the checker of the instance, by this node itself where that says nothing within
//! 500 ms or doubts what it sees, and by another checker where this node doubts as well.

use super::{
    Checks,
    book::SHORT_BYTES,
    now::{How, Wanted},
    peer::{ANSWER, request_out},
    probe::output::printable,
};
use crate::{
    lease::quick::{Answer, Asked, Quick},
    net::BoxFuture,
};
use rollcall_core::name::Label;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Status;

/// Three probes, a quarter of a second apart, each for at most a second.
const HOW: How =
    How { rounds: 3, gap: Duration::from_millis(250), timeout: Duration::from_secs(1) };
/// What a round may take beyond its probes.
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
            (critical, state.checkers().of(&asked.name), state.checkers().nodes().to_vec())
        };
        if critical.is_empty() {
            return Answer::Unknown;
        }
        let wanted = critical
            .iter()
            .map(|check| Wanted { generation: asked.generation, check: check.clone() });
        let wanted: Vec<Wanted> = wanted.collect();
        let me = self.0.node;
        let mut nodes: Vec<u64> = checker.into_iter().chain([me]).chain(others).collect();
        let mut tried = std::collections::BTreeSet::new();
        nodes.retain(|node| tried.insert(*node));
        for node in nodes {
            let seen = match node == me {
                true if self.doubts_itself() => continue,
                true => self.probe_here(&wanted).await,
                false => self.probe_there(node, &wanted).await.unwrap_or_else(|status| {
                    tracing::debug!(%status, node = format!("{node:016x}"), "quick probes");
                    None
                }),
            };
            if let Some(seen) = seen {
                return answer(&critical, seen);
            }
        }
        // Everybody doubts, or is silent: what this node sees counts.
        match self.probe_here(&wanted).await {
            Some(seen) => answer(&critical, seen),
            None => Answer::Unknown,
        }
    }

    /// Which of these fail in every round, by this node's own probes. `None`: some do not exist.
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

    /// As [`Checks::probe_here`], by another node. `None`: it doubts what it sees, or knows less than this node.
    async fn probe_there(&self, node: u64, wanted: &[Wanted]) -> Result<Option<Seen>, Status> {
        let silent = |_| Status::deadline_exceeded("it did not answer in time");
        let gone = || Status::unavailable("it is no member any more");
        let mut client = self.peer(node).ok_or_else(gone)?;
        let request = request_out(wanted, HOW);
        let begin = async {
            let mut answers = client.probe_now(request).await?.into_inner();
            let begun = answers.message().await?;
            Ok::<_, Status>((answers, begun.is_none_or(|begun| begun.doubts)))
        };
        let (mut answers, doubts) = timeout(ANSWER, begin).await.map_err(silent)??;
        if doubts {
            return Ok(None);
        }
        let mut failed = Seen::new();
        let patience = HOW.timeout + HOW.gap + ROOM;
        while let Some(answer) = timeout(patience, answers.message()).await.map_err(silent)?? {
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
        }
        Ok(Some(failed))
    }
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
