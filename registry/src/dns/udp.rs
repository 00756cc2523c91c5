//! DNS over UDP. In production a thread for each socket, which blocks in it: no task, no wake-up, no queue between
//! the network and the answer. Where the network has no such sockets, one loop over [`Datagrams`].

use super::{
    desk::{Arrival, Desk},
    stats::Dropped,
};
use crate::{host::Random, net::Datagrams};
use rollcall_dns::Transport;
use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Longest query; what is longer arrives cut, and is refused as malformed.
const QUERY_BYTES: usize = 4096;
/// Pause after an error of the socket itself.
const RETRY: Duration = Duration::from_millis(20);

/// The threads of a node.
#[derive(Debug, Default)]
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Threads {
    /// Starts a thread for a socket.
    pub(super) fn start(&mut self, socket: UdpSocket, desk: Arc<Desk>, shard: usize, seed: u64) {
        let stop = self.stop.clone();
        let thread = Thread { socket, desk, shard, random: Random::new(seed), stop };
        let port = thread.socket.local_addr().map_or(0, |address| address.port());
        match Builder::new().name(format!("dns-{port}-{shard}")).spawn(move || thread.run()) {
            Ok(handle) => self.handles.push(handle),
            Err(error) => tracing::error!(%error, shard, "start a thread for DNS"),
        }
    }

    /// Ends them and waits for their end.
    pub(super) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let handles = std::mem::take(&mut self.handles);
        if handles.is_empty() {
            return;
        }
        let join = || handles.into_iter().for_each(|handle| drop(handle.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Thread {
    socket: UdpSocket,
    desk: Arc<Desk>,
    shard: usize,
    random: Random,
    stop: Arc<AtomicBool>,
}

impl Thread {
    /// Answers until it is told to stop. A query that breaks the program must not silence the others of its socket.
    fn run(self) {
        while !self.stop.load(Ordering::Relaxed) {
            if catch_unwind(AssertUnwindSafe(|| self.answer_all())).is_err() {
                tracing::error!(shard = self.shard, "a DNS query broke its thread, which goes on");
                self.desk.stats().dropped(self.shard, Dropped::Broken);
            }
        }
    }

    fn answer_all(&self) {
        let (mut query, mut reply) = ([0; QUERY_BYTES], Vec::with_capacity(QUERY_BYTES));
        while !self.stop.load(Ordering::Relaxed) {
            match self.socket.recv_from(&mut query) {
                Ok((length, peer)) => self.answer(&query[..length], peer, &mut reply),
                Err(error) if is_no_news(error.kind()) => {}
                Err(error) => {
                    tracing::warn!(%error, shard = self.shard, "receive a DNS query");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn answer(&self, bytes: &[u8], peer: SocketAddr, reply: &mut Vec<u8>) {
        let random = self.random.bits();
        let arrival = Arrival { bytes, peer, transport: Transport::Udp, random };
        if self.desk.answer(arrival, self.shard, reply) && self.socket.send_to(reply, peer).is_err()
        {
            self.desk.stats().dropped(self.shard, Dropped::SendFailed);
        }
    }
}

/// A timeout, or what the network reports of an earlier reply that nobody wanted.
fn is_no_news(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
    )
}

/// Answers one socket of the passed-in network until it shall stop.
pub(super) async fn answer_loop(
    socket: Box<dyn Datagrams>,
    desk: Arc<Desk>,
    seed: u64,
    stop: CancellationToken,
) {
    let random = Random::new(seed);
    let (mut query, mut reply) = (vec![0; QUERY_BYTES], Vec::with_capacity(QUERY_BYTES));
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut query) => received,
        };
        match received {
            Ok((length, peer)) => {
                let bytes = &query[..length];
                let random = random.bits();
                let arrival = Arrival { bytes, peer, transport: Transport::Udp, random };
                if desk.answer(arrival, 0, &mut reply)
                    && socket.send_to(&reply, peer).await.is_err()
                {
                    desk.stats().dropped(0, Dropped::SendFailed);
                }
            }
            Err(error) if is_no_news(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, "receive a DNS query");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
