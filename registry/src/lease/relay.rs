//! Beats between nodes: a follower collects them for at most 20 ms and passes them on in one stream, and with them
//! which instances' streams broke.
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
use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
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
/// The leader must have answered within this; it gives up sooner by itself.
const ANSWER: Duration = Duration::from_secs(5);

/// One message of a client, to be passed on.
#[derive(Debug)]
pub(super) struct Ask {
    handles: Vec<u64>,
    /// Instances whose stream broke.
    broken: Vec<u64>,
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
        let ask = Ask { handles, broken: Vec::new(), answer };
        self.0.try_send(ask).map_err(|_| NotAcknowledged)?;
        let answered = timeout(ANSWER, answered).await.map_err(|_| NotAcknowledged)?;
        answered.map_err(|_| NotAcknowledged)?
    }

    /// Tells the leader that the stream of these instances broke here. Where it does not hear of it their leases
    /// decide.
    pub(super) fn tell_broken(&self, broken: Vec<u64>) {
        let answer = oneshot::channel().0;
        let _ = self.0.try_send(Ask { handles: Vec::new(), broken, answer });
    }
}

/// Passes beats on to whoever leads, until the node stops.
pub(super) async fn run(leases: Leases, mut asks: mpsc::Receiver<Ask>) {
    while let Some(first) = asks.recv().await {
        let leader = leases.0.leadership.borrow().leader.as_ref().map(|(id, _)| *id);
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

/// Beats that are being collected for the next batch.
#[derive(Debug, Default)]
struct Next {
    asks: Vec<Ask>,
    handles: Vec<u64>,
    broken: Vec<u64>,
    /// When to send it.
    due: Option<Instant>,
}

impl Next {
    fn add(&mut self, ask: Ask) {
        let due = *self.due.get_or_insert_with(|| Instant::now() + COLLECT);
        self.handles.extend_from_slice(&ask.handles);
        self.broken.extend_from_slice(&ask.broken);
        self.asks.push(ask);
        if self.is_full() {
            self.due = Some(due.min(Instant::now()));
        }
    }

    fn is_full(&self) -> bool {
        self.handles.len() + self.broken.len() >= BATCH
    }
}

/// Passes beats on to one leader, until it leads no more or the stream breaks. Answers are taken, and the next batch
/// is collected, while others are on their way: a slow one holds back nothing but itself.
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
    let mut opening = pin!(timeout(OPEN, client.relay(ReceiverStream::new(outbound))));
    let mut answers: Option<Streaming<RelayResponse>> = None;
    let (mut waiting, mut next, mut sequence) = (Waiting::new(), Next::default(), 0);
    next.add(first);
    // This one has not seen the present leader yet: a change since the caller looked is not missed.
    let mut leadership = leases.0.leadership.clone();
    loop {
        let room = waiting.len() < IN_FLIGHT && !next.is_full();
        tokio::select! {
            biased;
            opened = &mut opening, if answers.is_none() => {
                let opened = opened.map_err(|_| Status::deadline_exceeded("open the relay"))?;
                answers = Some(opened?.into_inner());
            }
            answer = message(&mut answers), if answers.is_some() => match answer? {
                Some(answer) => settle(&mut waiting, &answer),
                None => return Ok(()),
            },
            changed = leadership.changed() => {
                let leads = leadership.borrow_and_update().leader.as_ref().map(|(id, _)| *id);
                if changed.is_err() || leads != Some(leader) {
                    return Ok(());
                }
            }
            () = at(next.due), if next.due.is_some() => {
                let Next { asks, handles, broken, .. } = std::mem::take(&mut next);
                sequence += 1;
                waiting.insert(sequence, asks);
                // There is room for as many as may wait: full means closed.
                let closed = |_| Status::unavailable("the relay is closed");
                let request = RelayRequest { sequence, handles, broken_handles: broken };
                batches.try_send(request).map_err(closed)?;
            }
            ask = asks.recv(), if room => match ask {
                Some(ask) => next.add(ask),
                None => return Ok(()),
            },
        }
    }
}

async fn message(
    answers: &mut Option<Streaming<RelayResponse>>,
) -> Result<Option<RelayResponse>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
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
        if !batch.broken_handles.is_empty() {
            self.leases.broken_on_leader(batch.broken_handles);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beats_beyond_the_queue_are_not_acknowledged_at_once() {
        let (relay, asks) = Relay::new();
        let mut waiting = FuturesUnordered::new();
        for handle in 0..QUEUE as u64 {
            waiting.push(relay.ask(vec![handle]));
        }
        // The first look at each puts it into the queue.
        assert!(futures_util::poll!(waiting.next()).is_pending());
        assert_eq!(asks.len(), QUEUE);
        let refused = timeout(Duration::from_secs(5), relay.ask(vec![1])).await;
        assert_eq!(refused, Ok(Err(NotAcknowledged)));
        drop(asks);
        assert_eq!(waiting.next().await, Some(Err(NotAcknowledged)));
    }

    #[test]
    fn a_batch_is_sent_when_it_is_full() {
        let mut next = Next::default();
        let ask = || Ask {
            handles: vec![0; BATCH / 2],
            broken: Vec::new(),
            answer: oneshot::channel().0,
        };
        next.add(ask());
        assert!(!next.is_full());
        assert!(next.due.is_some_and(|due| due > Instant::now()));
        next.add(ask());
        assert!(next.is_full());
        assert!(next.due.is_some_and(|due| due <= Instant::now()));
    }

    #[test]
    fn each_client_hears_of_its_own_leases_alone() {
        let (mut waiting, mut answers) = (Waiting::new(), Vec::new());
        let mut asks = Vec::new();
        for handles in [vec![1, 2], vec![3, 4]] {
            let (answer, answered) = oneshot::channel();
            asks.push(Ask { handles, broken: Vec::new(), answer });
            answers.push(answered);
        }
        waiting.insert(7, asks);
        let mut answer =
            BeatAnswer { reregister: vec![4, 1], fenced: vec![(3, Fence::Superseded)] };
        answer.fenced.push((2, Fence::Deregistered));
        settle(&mut waiting, &answer_out(7, answer));
        let mut next = || answers.remove(0).try_recv().unwrap().unwrap();
        let first = BeatAnswer { reregister: vec![1], fenced: vec![(2, Fence::Deregistered)] };
        assert_eq!(next(), first);
        let second = BeatAnswer { reregister: vec![4], fenced: vec![(3, Fence::Superseded)] };
        assert_eq!(next(), second);
        assert!(waiting.is_empty());
    }
}
