//! The heartbeat stream: one per client process, for all of its instances.
//!
//! Beats are taken when they arrive and acknowledged when the leader has, possibly out of order. A stream without a
//! usable leader ends with NO_LEADER after 500 ms, so that its client goes elsewhere.

use super::{Api, Place, renewed::Renewed, said::Said, status};
use crate::lease::{beat::BeatAnswer, table::Fence};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rollcall_core::{
    Command,
    command::{Deregister, Deregistration, ReportSelf},
    record::Actor,
};
use rollcall_proto::{convert, error, v1};
use std::{pin::Pin, time::Duration};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

/// Messages of one stream being dealt with; beyond, the stream is read later.
const IN_FLIGHT: usize = 32;
/// What owners say of themselves is passed on this often at most.
const SAY: Duration = Duration::from_secs(1);
/// A client that is told to go elsewhere has so long.
const GO_AWAY: Duration = Duration::from_millis(500);

type Running = Pin<Box<dyn Future<Output = Result<Ended, Status>> + Send>>;

/// Work that is done.
enum Ended {
    /// A beat was decided: its number here, that of the client, and the answer. `None`: it was not acknowledged. Nothing
    /// is said, and the client goes elsewhere when it has waited long enough.
    Beat(u64, u64, Option<BeatAnswer>),
    /// Nobody waits for it.
    Said,
}

/// One running stream.
pub(super) struct Heartbeats {
    api: Api,
    from: String,
    inbound: Streaming<v1::StreamHeartbeatsRequest>,
    running: FuturesUnordered<Running>,
    /// The client has ended its side.
    ended: bool,
    /// When to give up for lack of a leader.
    leaderless: Option<Instant>,
    /// Set when the client was told to go.
    leaving: Option<Instant>,
    /// This node has ended the stream.
    over: bool,
    /// What owners say of themselves here.
    said: Said,
    /// When it is looked at again.
    say_at: Instant,
    /// Whose leases were renewed here and not released since.
    renewed: Renewed,
    _place: Place,
}

impl Heartbeats {
    pub(super) fn start(
        api: Api,
        from: String,
        inbound: Streaming<v1::StreamHeartbeatsRequest>,
    ) -> Result<Self, Status> {
        let limit = api.settings().heartbeat_streams;
        let place = Place::take(&api.0.heartbeat_streams, limit)
            .ok_or_else(|| status::too_many("limits.heartbeat_streams", limit))?;
        Ok(Self {
            api,
            from,
            inbound,
            running: FuturesUnordered::new(),
            ended: false,
            leaderless: None,
            leaving: None,
            over: false,
            said: Said::default(),
            say_at: Instant::now(),
            renewed: Renewed::default(),
            _place: place,
        })
    }

    /// The next answer; `None` = the stream is over.
    pub(super) async fn next(&mut self) -> Option<Result<v1::StreamHeartbeatsResponse, Status>> {
        let mut leadership = self.api.replica().leadership();
        loop {
            let known = leadership.borrow_and_update().leader.is_some();
            self.leaderless = match (known, self.leaderless) {
                (true, _) => None,
                (false, Some(at)) => Some(at),
                (false, None) => Some(Instant::now() + self.api.leases().leaderless_grace()),
            };
            let give_up = self.leaderless.into_iter().chain(self.leaving).min();
            tokio::select! {
                biased;
                () = self.api.draining(), if self.leaving.is_none() => {
                    self.leaving = Some(Instant::now() + GO_AWAY);
                    return Some(Ok(go_away()));
                }
                () = at(give_up), if give_up.is_some() => {
                    self.over = true;
                    return Some(Err(match self.leaving {
                        Some(_) => status::draining(),
                        None => status::no_leader(self.api.leases().leaderless_grace()),
                    }));
                }
                message = self.inbound.message(), if self.reads() => match message {
                    Ok(Some(message)) => {
                        if let Err(status) = self.take(message) {
                            self.over = true;
                            return Some(Err(status));
                        }
                    }
                    // A client that ends its side, or one that is gone: tonic tells a cancelled stream like this.
                    Ok(None) => self.ended = true,
                    // What cannot be read is refused; one that is cut off does not hear it.
                    Err(status) => return Some(Err(status::dressed(status.clone()).unwrap_or(status))),
                },
                Some(answer) = self.running.next() => match answer {
                    Ok(Ended::Beat(beat, sequence, answer)) => {
                        self.renewed.end(beat, answer.as_ref());
                        if let Some(answer) = answer {
                            return Some(Ok(answer_out(sequence, answer)));
                        }
                    }
                    Ok(Ended::Said) => {}
                    Err(status) => {
                        self.over = true;
                        return Some(Err(status));
                    }
                },
                () = sleep_until(self.say_at), if !self.said.is_empty() => self.pass_on_self_reports(),
                _ = leadership.changed(), if !self.ended => {}
                else => return None,
            }
            if self.ended && self.running.is_empty() {
                return None;
            }
        }
    }

    fn reads(&self) -> bool {
        !self.ended && self.running.len() < IN_FLIGHT
    }

    fn take(&mut self, mut message: v1::StreamHeartbeatsRequest) -> Result<(), Status> {
        let said = convert::check_beat(&mut message).map_err(error::of_invalid)?;
        for word in said {
            self.said.hear(word);
        }
        let sequence = message.sequence;
        let number = self.renewed.begin(&message.alive_handles);
        self.renewed.release(&message.release_handles);
        let beat = self.api.leases().beat(message.alive_handles);
        let released = message.release_handles;
        let (api, from) = (self.api.clone(), self.from.clone());
        self.running.push(Box::pin(async move {
            if !released.is_empty() {
                // A client that says goodbye may be gone before the answer: what it wanted is done even so.
                let goodbye = tokio::spawn(async move { api.goodbye(&released, &from).await });
                goodbye.await.map_err(|_| status::draining())??;
            }
            let answer = beat.await.ok();
            Ok(Ended::Beat(number, sequence, answer))
        }));
        Ok(())
    }
}

impl Heartbeats {
    /// Proposes what owners say of themselves, where the catalogue says something else: at most once a second for a
    /// stream, and again until it stands there. An owner that changes its mind in between costs nothing.
    fn pass_on_self_reports(&mut self) {
        let now = Instant::now();
        self.say_at = now + SAY;
        let (items, figures) = self.said.due(&self.api.view().seen().state, now);
        if items.is_empty() && figures.is_empty() {
            return;
        }
        let report = ReportSelf { items, figures, actor: Actor::Owner(self.from.as_str().into()) };
        let replica = self.api.replica().clone();
        self.running.push(Box::pin(async move {
            // What came to nothing is looked at again with the next second.
            if let Err(error) = replica.submit(Command::ReportSelf(report), SAY).await {
                tracing::debug!(%error, "what an owner says of itself was not committed");
            }
            Ok(Ended::Said)
        }));
    }
}

impl Drop for Heartbeats {
    /// A stream that ends without a word of this node broke, as when its process was killed. An end by the client itself
    /// cannot be told from that; where its instances live, the probes that follow say so. A goodbye leaves no handle.
    fn drop(&mut self) {
        let meant = self.over || self.leaving.is_some() || self.api.is_draining();
        if !meant {
            self.api.leases().stream_broken(self.renewed.take());
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn go_away() -> v1::StreamHeartbeatsResponse {
    let go_away_after = Some(convert::duration(GO_AWAY));
    v1::StreamHeartbeatsResponse { go_away_after, ..Default::default() }
}

fn answer_out(sequence: u64, answer: BeatAnswer) -> v1::StreamHeartbeatsResponse {
    use v1::fenced_handle::Reason;
    let fenced = answer.fenced.into_iter().map(|(lease_handle, fence)| {
        let (reason, detail) = match fence {
            Fence::Superseded => (Reason::Superseded, "a newer owner registered the same id"),
            Fence::Deregistered => (Reason::Deregistered, "it was deregistered"),
        };
        v1::FencedHandle { lease_handle, reason: reason.into(), detail: detail.into() }
    });
    v1::StreamHeartbeatsResponse {
        ack_sequence: sequence,
        reregister_handles: answer.reregister,
        fenced_handles: fenced.collect(),
        ..Default::default()
    }
}

impl Api {
    /// Goodbye: deregisters the instances behind these handles at once.
    async fn goodbye(&self, handles: &[u64], from: &str) -> Result<(), Status> {
        let seen = self.view().seen();
        let items = handles.iter().filter_map(|handle| {
            let record = seen.state.by_generation(*handle)?;
            Some(Deregistration {
                name: (*record.name).clone(),
                generation: *handle,
                allow_missing: true,
                expected_revision: None,
            })
        });
        let items: Vec<Deregistration> = items.collect();
        for batch in items.chunks(rollcall_core::instance::limit::BATCH) {
            let goodbye = Deregister {
                items: batch.to_vec(),
                actor: Actor::Owner(from.into()),
                request_id: None,
                evidence: "goodbye".into(),
            };
            // Also while this node shuts down: nobody else would hear of it.
            let deadline = self.settings().request_deadline;
            let done = self.replica().submit(Command::Deregister(goodbye), deadline).await;
            done.map_err(|error| status::of_submit(&error))?;
        }
        Ok(())
    }
}
