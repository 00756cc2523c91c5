//! Beats between nodes: a follower collects them for at most 20 ms and passes them on in one stream.
//!
//! A batch that the leader does not acknowledge counts for nothing; its clients go to another node by themselves, so
//! nothing is tried again here.

use super::{
    Leases,
    beat::{BeatAnswer, NotAcknowledged},
    table::Fence,
};
use crate::raft::Lane;
use futures_util::{StreamExt, stream::FuturesUnordered};
use rollcall_proto::internal::v1::{
    RelayRequest, RelayResponse, beat_relay_client::BeatRelayClient, beat_relay_server,
};
use std::{collections::BTreeMap, pin::Pin, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages of clients that may wait for the leader; beyond, beats are not acknowledged.
const QUEUE: usize = 8_192;
/// Beats are collected so long.
const COLLECT: Duration = Duration::from_millis(10);
/// Handles in one batch.
const BATCH: usize = 50_000;
/// Batches in flight to the leader, and beats of one follower being dealt with by the leader.
const IN_FLIGHT: usize = 64;
/// The stream to the leader must stand within this.
const OPEN: Duration = Duration::from_millis(500);

/// One message of a client, to be passed on.
#[derive(Debug)]
pub(super) struct Ask {
    handles: Vec<u64>,
    answer: oneshot::Sender<Result<BeatAnswer, NotAcknowledged>>,
}

/// The way to the leader.
#[derive(Debug)]
pub(super) struct Relay(mpsc::Sender<Ask>);

impl Relay {
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(QUEUE);
        (Self(asks), receiver)
    }

    /// Passes beats on and waits for the leader's word.
    pub(super) async fn ask(&self, handles: Vec<u64>) -> Result<BeatAnswer, NotAcknowledged> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Ask { handles, answer }).map_err(|_| NotAcknowledged)?;
        answered.await.map_err(|_| NotAcknowledged)?
    }
}

/// Passes beats on to whoever leads, until the node stops.
pub(super) async fn run(leases: Leases, mut asks: mpsc::Receiver<Ask>) {
    while let Some(first) = asks.recv().await {
        let leader = leases.0.replica.leadership().borrow().leader.as_ref().map(|(id, _)| *id);
        // To this node itself: it has begun to lead since the beat came in, or does not lead any more.
        let other = leader.filter(|id| *id != leases.0.replica.node_id());
        let Some(leader) = other else {
            let _ = first.answer.send(Err(NotAcknowledged));
            continue;
        };
        // A stream that breaks drops the waiting answers, which says "not acknowledged".
        if let Err(error) = pass_on(&leases, leader, first, &mut asks).await {
            tracing::debug!(leader = format!("{leader:016x}"), %error, "the relay of beats broke");
        }
    }
}

type Waiting = BTreeMap<u64, Vec<Ask>>;

async fn pass_on(
    leases: &Leases,
    leader: u64,
    first: Ask,
    asks: &mut mpsc::Receiver<Ask>,
) -> Result<(), Status> {
    let gone = || Status::unavailable("the leader is no member any more");
    let channel = leases.0.replica.channel_to(leader, Lane::Control).ok_or_else(gone)?;
    let (batches, outbound) = mpsc::channel(IN_FLIGHT);
    let mut client = BeatRelayClient::new(channel);
    let mut waiting = Waiting::new();
    let mut sequence = 1;
    // The first batch goes out before the answer's head is awaited: the leader sends it with its first reply.
    send(&batches, &mut waiting, sequence, first, asks).await?;
    let opened = timeout(OPEN, client.relay(ReceiverStream::new(outbound))).await;
    let mut answers =
        opened.map_err(|_| Status::deadline_exceeded("open the relay"))??.into_inner();
    let mut leadership = leases.0.replica.leadership();
    loop {
        tokio::select! {
            biased;
            answer = answers.message() => match answer? {
                Some(answer) => settle(&mut waiting, &answer),
                None => return Ok(()),
            },
            changed = leadership.changed() => {
                let leads = leadership.borrow_and_update().leader.as_ref().map(|(id, _)| *id);
                if changed.is_err() || leads != Some(leader) {
                    return Ok(());
                }
            }
            ask = asks.recv(), if waiting.len() < IN_FLIGHT => {
                let Some(ask) = ask else { return Ok(()) };
                sequence += 1;
                send(&batches, &mut waiting, sequence, ask, asks).await?;
            }
        }
    }
}

/// Collects what else arrives within 10 ms and sends it as one batch.
async fn send(
    batches: &mpsc::Sender<RelayRequest>,
    waiting: &mut Waiting,
    sequence: u64,
    first: Ask,
    asks: &mut mpsc::Receiver<Ask>,
) -> Result<(), Status> {
    tokio::time::sleep(COLLECT).await;
    let mut handles = first.handles.clone();
    let mut batch = vec![first];
    while handles.len() < BATCH
        && let Ok(ask) = asks.try_recv()
    {
        handles.extend_from_slice(&ask.handles);
        batch.push(ask);
    }
    waiting.insert(sequence, batch);
    let closed = |_| Status::unavailable("the relay is closed");
    batches.send(RelayRequest { sequence, handles }).await.map_err(closed)
}

fn settle(waiting: &mut Waiting, answer: &RelayResponse) {
    let Some(batch) = waiting.remove(&answer.sequence) else { return };
    for ask in batch {
        if !answer.acknowledged {
            let _ = ask.answer.send(Err(NotAcknowledged));
            continue;
        }
        let mut own = BeatAnswer::default();
        for handle in &ask.handles {
            if answer.reregister.binary_search(handle).is_ok() {
                own.reregister.push(*handle);
            } else if answer.superseded.binary_search(handle).is_ok() {
                own.fenced.push((*handle, Fence::Superseded));
            } else if answer.deregistered.binary_search(handle).is_ok() {
                own.fenced.push((*handle, Fence::Deregistered));
            }
        }
        // The client may have left.
        let _ = ask.answer.send(Ok(own));
    }
}

/// The leader's side.
#[derive(Debug, Clone)]
pub struct RelayServer(pub Leases);

#[tonic::async_trait]
impl beat_relay_server::BeatRelay for RelayServer {
    type RelayStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<RelayResponse, Status>> + Send>>;

    async fn relay(
        &self,
        request: Request<Streaming<RelayRequest>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        self.0.0.replica.guard().check(request.metadata())?;
        let serving = Serving {
            leases: self.0.clone(),
            inbound: request.into_inner(),
            open: true,
            running: FuturesUnordered::new(),
        };
        let stream = futures_util::stream::unfold(serving, |mut serving| async move {
            let answer = serving.next().await?;
            Some((answer, serving))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

type Running = Pin<Box<dyn Future<Output = RelayResponse> + Send>>;

struct Serving {
    leases: Leases,
    inbound: Streaming<RelayRequest>,
    open: bool,
    running: FuturesUnordered<Running>,
}

impl Serving {
    async fn next(&mut self) -> Option<Result<RelayResponse, Status>> {
        loop {
            tokio::select! {
                biased;
                batch = self.inbound.message(), if self.open && self.running.len() < IN_FLIGHT => {
                    match batch {
                        Ok(Some(batch)) => self.take(batch),
                        Ok(None) => self.open = false,
                        Err(status) => return Some(Err(status)),
                    }
                }
                Some(answer) = self.running.next() => return Some(Ok(answer)),
                else => return None,
            }
        }
    }

    fn take(&mut self, batch: RelayRequest) {
        let beat = self.leases.beat_on_leader(batch.handles);
        let sequence = batch.sequence;
        self.running.push(Box::pin(async move {
            match beat.await {
                Ok(answer) => answer_out(sequence, answer),
                Err(NotAcknowledged) => RelayResponse { sequence, ..Default::default() },
            }
        }));
    }
}

fn answer_out(sequence: u64, mut answer: BeatAnswer) -> RelayResponse {
    answer.reregister.sort_unstable();
    let fenced = |fence: Fence| {
        let handles = answer.fenced.iter().filter(|(_, why)| *why == fence);
        let mut handles: Vec<u64> = handles.map(|(handle, _)| *handle).collect();
        handles.sort_unstable();
        handles
    };
    RelayResponse {
        sequence,
        acknowledged: true,
        superseded: fenced(Fence::Superseded),
        deregistered: fenced(Fence::Deregistered),
        reregister: answer.reregister,
    }
}
