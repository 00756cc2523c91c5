//! What the nodes ask of each other about checks: outputs, which stay with the checker, and probes at once.

use super::{
    Checks,
    book::{Kept, SHORT_BYTES, Shown},
    now::{How, Rounds, Seen, Wanted},
    probe::output::printable,
};
use crate::raft::Lane;
use futures_util::stream;
use rollcall_core::{State, name::Label, record::Record};
use rollcall_proto::{
    convert,
    internal::v1::{
        self as pb, check_peer_client::CheckPeerClient, check_peer_server,
        probe_now_response::Result as ProbeResult, show_checks_response::Shown as Known,
    },
    v1,
};
use std::{pin::Pin, time::Duration};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

/// A checker must have answered within this.
pub(super) const ANSWER: Duration = Duration::from_millis(500);
/// Bounds of a request.
pub(super) const ITEMS_MAX: usize = 64;
const ROUNDS_MAX: u32 = 3;
const GAP_MAX: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How the checks of an instance stand, for an answer of the API.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reports {
    /// One for each check.
    pub checks: Vec<v1::CheckReport>,
    /// The node that probes; 0 = none.
    pub checker: u64,
    /// Why the outputs that were asked for are missing; empty = they are not.
    pub problem: String,
}

impl Checks {
    /// How the checks of an instance stand by the catalogue; `with_outputs` = and what its checker has seen.
    pub async fn reports(&self, state: &State, record: &Record, with_outputs: bool) -> Reports {
        let checks = state.checks(record).filter_map(|check| {
            let opinion = record.signals.opinion(&check.id);
            Some(v1::CheckReport {
                status: Some(convert::check_status(&check.id, &opinion)),
                kind: check.probe.as_str().to_owned(),
                target: check.address(&record.spec)?.to_string(),
                advisory: check.advisory,
                interval: Some(convert::duration(check.interval)),
                ..Default::default()
            })
        });
        let (mut checks, checker) = (checks.collect::<Vec<_>>(), state.checkers().of(&record.name));
        let mut problem = String::new();
        if with_outputs && !checks.is_empty() {
            match self.outputs(record.generation, checker).await {
                Ok(known) => {
                    for check in &mut checks {
                        let id = check.status.as_ref().map(|status| &status.check_id);
                        if let Some(known) = known.iter().find(|known| Some(&known.check_id) == id)
                        {
                            check.next_probe_in = known.next_probe_in;
                            check.outputs.clone_from(&known.outputs);
                        }
                    }
                }
                Err(why) => problem = why,
            }
        }
        Reports { checks, checker: checker.unwrap_or_default(), problem }
    }

    async fn outputs(&self, generation: u64, checker: Option<u64>) -> Result<Vec<Known>, String> {
        let Some(checker) = checker else {
            return Err("no node probes yet".to_owned());
        };
        if checker == self.0.node {
            return Ok(self.show(generation).iter().map(shown_out).collect());
        }
        let Some(mut client) = self.peer(checker) else {
            return Err(format!("the checker {checker:016x} is no member any more"));
        };
        let asked = client.show_checks(pb::ShowChecksRequest { generation });
        match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().checks),
            Ok(Err(status)) => {
                Err(format!("the checker {checker:016x} answered: {}", status.message()))
            }
            Err(_) => Err(format!("the checker {checker:016x} did not answer within {ANSWER:?}")),
        }
    }

    pub(super) fn peer(&self, id: u64) -> Option<CheckPeerClient<crate::raft::peers::PeerChannel>> {
        self.0.replica.channel_to(id, Lane::Control).map(CheckPeerClient::new)
    }
}

fn shown_out(shown: &Shown) -> Known {
    let output = |kept: &Kept| v1::ProbeOutput {
        time: Some(convert::timestamp(kept.wall_ms)),
        failure: kept.probed.failure.map_or("", |failure| failure.as_str()).to_owned(),
        latency: Some(convert::duration(kept.probed.latency)),
        output: kept.text.to_string(),
    };
    Known {
        check_id: shown.check.as_str().to_owned(),
        next_probe_in: Some(convert::duration(shown.next)),
        outputs: shown.kept.iter().map(output).collect(),
    }
}

/// The side that is asked.
#[derive(Debug, Clone)]
pub struct CheckServer(pub Checks);

type Answers = Pin<Box<dyn stream::Stream<Item = Result<pb::ProbeNowResponse, Status>> + Send>>;

#[tonic::async_trait]
impl check_peer_server::CheckPeer for CheckServer {
    async fn show_checks(
        &self,
        request: Request<pb::ShowChecksRequest>,
    ) -> Result<Response<pb::ShowChecksResponse>, Status> {
        self.0.0.replica.guard().check(request.metadata())?;
        let shown = self.0.show(request.into_inner().generation);
        let checks = shown.iter().map(shown_out).collect();
        Ok(Response::new(pb::ShowChecksResponse { checks }))
    }

    type ProbeNowStream = Answers;

    async fn probe_now(
        &self,
        request: Request<pb::ProbeNowRequest>,
    ) -> Result<Response<Answers>, Status> {
        self.0.0.replica.guard().check(request.metadata())?;
        let (items, how) = wanted_in(request.into_inner())?;
        let rounds = self.0.probe_now(items, how);
        let state: (Option<Rounds>, u32) = (Some(rounds), 0);
        let answers = stream::unfold(state, |(rounds, round)| async move {
            let mut rounds = rounds?;
            if round == 0 {
                let begun = pb::ProbeNowResponse { doubts: rounds.doubts(), ..Default::default() };
                return Some((Ok(begun), (Some(rounds), 1)));
            }
            let results = rounds.next().await?.into_iter().map(seen_out).collect();
            let doubts = rounds.doubts();
            let answer = pb::ProbeNowResponse { round, results, doubts };
            Some((Ok(answer), (Some(rounds), round + 1)))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn seen_out((item, report): Seen) -> ProbeResult {
    let probed = report.is_some();
    let failure = report.as_ref().and_then(|report| report.probed.failure);
    let text = report.as_ref().map_or("", |report| &report.output);
    ProbeResult {
        item: u32::try_from(item).unwrap_or(u32::MAX),
        probed,
        failure: failure.map_or("", |failure| failure.as_str()).to_owned(),
        output: printable(text.as_bytes(), SHORT_BYTES),
    }
}

/// A request to another node.
pub(super) fn request_out(wanted: &[Wanted], how: How) -> pb::ProbeNowRequest {
    let items = wanted.iter().map(|wanted| pb::probe_now_request::Wanted {
        generation: wanted.generation,
        check_id: wanted.check.as_str().to_owned(),
    });
    pb::ProbeNowRequest {
        items: items.collect(),
        rounds: how.rounds,
        gap: Some(convert::duration(how.gap)),
        timeout: Some(convert::duration(how.timeout)),
    }
}

fn wanted_in(request: pb::ProbeNowRequest) -> Result<(Vec<Wanted>, How), Status> {
    let malformed = |what: &str| Status::invalid_argument(format!("malformed {what}"));
    let time = |length: Option<prost_types::Duration>, most: Duration| {
        length.and_then(|length| Duration::try_from(length).ok()).filter(|time| *time <= most)
    };
    if request.items.is_empty() || request.items.len() > ITEMS_MAX {
        return Err(malformed("items"));
    }
    let items = request.items.into_iter().map(|item| {
        let check = Label::parse("check_id", &item.check_id).map_err(|_| malformed("check_id"))?;
        Ok(Wanted { generation: item.generation, check })
    });
    let how = How {
        rounds: request.rounds.clamp(1, ROUNDS_MAX),
        gap: time(request.gap, GAP_MAX).ok_or_else(|| malformed("gap"))?,
        timeout: time(request.timeout, TIMEOUT_MAX).ok_or_else(|| malformed("timeout"))?,
    };
    Ok((items.collect::<Result<_, Status>>()?, how))
}
