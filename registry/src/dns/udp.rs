//! DNS over UDP. In production a thread for each socket, which blocks in it: no task, no wake-up, no queue between
//! the network and the answer of a plain query. What is unusual or costs much goes over a queue, bounded in number and in
//! time, to one thread more, so that it holds up nobody. Where the network has no such sockets, one loop over
//! [`Datagrams`].

use super::{
    desk::{Arrival, Desk},
    stats::Dropped,
    tcp::TcpServer,
};
use crate::{
    host::Random,
    net::{Datagrams, Listener},
};
use rollcall_dns::{Fast, Transport};
use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Longest query; what is longer arrives cut, and is refused as malformed.
const QUERY_BYTES: usize = 4096;
/// Unusual queries that wait; what comes on top is dropped, as a network drops it.
const UNUSUAL: usize = 1_024;
/// So long one of them may wait: after this its client asks elsewhere or once more.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the thread for them looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of records that all threads may keep together.
const NODE_MEMORY: usize = 512 << 20;
/// Pause after an error of the socket itself.
const RETRY: Duration = Duration::from_millis(20);

/// The threads of a node.
#[derive(Debug, Default)]
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Threads {
    /// Starts a thread for each socket, and one for what is unusual.
    ///
    /// # Errors
    /// When the system gives no more threads; those that run end with this value.
    pub(super) fn start(
        &mut self,
        sockets: Vec<UdpSocket>,
        desk: &Arc<Desk>,
        random: &Random,
    ) -> io::Result<()> {
        let (unusual, waiting) = sync_channel(UNUSUAL);
        let port = sockets.first().and_then(|socket| socket.local_addr().ok());
        let port = port.map_or(0, |address| address.port());
        let full_shard = sockets.len();
        let memory = memory(sockets.len());
        for (shard, socket) in sockets.into_iter().enumerate() {
            let thread = Thread {
                socket: Arc::new(socket),
                desk: desk.clone(),
                shard,
                random: Random::new(random.bits()),
                unusual: unusual.clone(),
                stop: self.stop.clone(),
            };
            let fast = desk.fast(memory, random.bits());
            self.spawn(&format!("dns-{port}-{shard}"), move || thread.run(fast))?;
        }
        let full = Full { waiting, desk: desk.clone(), shard: full_shard, stop: self.stop.clone() };
        self.spawn(&format!("dns-{port}-full"), move || full.run())
    }

    /// Serves connections on a thread of its own, with timers and sockets of its own, until it shall stop.
    ///
    /// # Errors
    /// When the system gives no more threads or files.
    pub(super) fn serve(
        &mut self,
        name: &str,
        server: TcpServer,
        mut listener: Box<dyn Listener>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Else a busy runtime of the node, in which it began to listen, would let nobody in.
        let entered = runtime.enter();
        listener.move_here()?;
        drop(entered);
        self.spawn(name, move || runtime.block_on(server.serve(listener, stop)))
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.handles.push(Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
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

/// Bytes of records that each of so many threads may keep: fewer where there are many, as all keep much the same.
fn memory(threads: usize) -> usize {
    Fast::MEMORY.min(NODE_MEMORY / threads.max(1))
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A query that the fast path leaves.
struct Unusual {
    /// When it came, by the clock of the desk.
    arrived: Duration,
    bytes: Box<[u8]>,
    peer: SocketAddr,
    random: u64,
    socket: Arc<UdpSocket>,
}

/// The thread of one socket.
struct Thread {
    socket: Arc<UdpSocket>,
    desk: Arc<Desk>,
    shard: usize,
    random: Random,
    unusual: SyncSender<Unusual>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    /// Answers until it is told to stop. A query that breaks the program must not silence the others of its socket.
    fn run(self, mut fast: Fast) {
        while !self.stop.load(Ordering::Relaxed) {
            if catch_unwind(AssertUnwindSafe(|| self.answer_all(&mut fast))).is_err() {
                tracing::error!(shard = self.shard, "a DNS query broke its thread, which goes on");
                self.desk.stats().dropped(self.shard, Dropped::Broken);
            }
        }
    }

    fn answer_all(&self, fast: &mut Fast) {
        let (mut query, mut reply) = ([0; QUERY_BYTES], Vec::with_capacity(QUERY_BYTES));
        while !self.stop.load(Ordering::Relaxed) {
            match self.socket.recv_from(&mut query) {
                Ok((length, peer)) => self.answer(fast, &query[..length], peer, &mut reply),
                Err(error) if is_no_news(error.kind()) => {}
                Err(error) => {
                    tracing::warn!(%error, shard = self.shard, "receive a DNS query");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn answer(&self, fast: &mut Fast, bytes: &[u8], peer: SocketAddr, reply: &mut Vec<u8>) {
        let random = self.random.bits();
        let arrival =
            Arrival { bytes, peer, transport: Transport::Udp, random, waited_since: None };
        match self.desk.answer_fast(fast, arrival, self.shard, reply) {
            Some(true) => send(&self.socket, reply, peer, &self.desk, self.shard),
            Some(false) => {}
            None => {
                let socket = self.socket.clone();
                let arrived = self.desk.now();
                let query = Unusual { arrived, bytes: bytes.into(), peer, random, socket };
                if self.unusual.try_send(query).is_err() {
                    self.desk.stats().dropped(self.shard, Dropped::Busy);
                }
            }
        }
    }
}

/// The thread for what is unusual.
struct Full {
    waiting: Receiver<Unusual>,
    desk: Arc<Desk>,
    shard: usize,
    stop: Arc<AtomicBool>,
}

impl Full {
    fn run(self) {
        while !self.stop.load(Ordering::Relaxed) {
            if catch_unwind(AssertUnwindSafe(|| self.answer_all())).is_err() {
                tracing::error!("an unusual DNS query broke its thread, which goes on");
                self.desk.stats().dropped(self.shard, Dropped::Broken);
            }
        }
    }

    fn answer_all(&self) {
        let mut reply = Vec::with_capacity(QUERY_BYTES);
        while !self.stop.load(Ordering::Relaxed) {
            match self.waiting.recv_timeout(LOOK) {
                Ok(query) => self.answer(&query, &mut reply),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // All sockets have stopped, and so shall this one.
                    self.stop.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn answer(&self, query: &Unusual, reply: &mut Vec<u8>) {
        let (bytes, socket) = (&query.bytes, &query.socket);
        let Unusual { arrived, peer, random, .. } = *query;
        if self.desk.now().saturating_sub(arrived) > PATIENCE {
            self.desk.stats().dropped(self.shard, Dropped::Busy);
            return;
        }
        let waited_since = Some(arrived);
        let arrival = Arrival { bytes, peer, transport: Transport::Udp, random, waited_since };
        if self.desk.answer(arrival, self.shard, reply) {
            send(socket, reply, peer, &self.desk, self.shard);
        }
    }
}

fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr, desk: &Desk, shard: usize) {
    if socket.send_to(reply, peer).is_err() {
        desk.stats().dropped(shard, Dropped::SendFailed);
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
    let mut fast = desk.fast(Fast::MEMORY, random.bits());
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
                let waited_since = None;
                let arrival =
                    Arrival { bytes, peer, transport: Transport::Udp, random, waited_since };
                let plain = desk.answer_fast(&mut fast, arrival, 0, &mut reply);
                if plain.unwrap_or_else(|| desk.answer(arrival, 0, &mut reply))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, dns::stats::DnsStats, view::View};
    use rollcall_dns::{Front, Settings};
    use std::sync::atomic::AtomicU64;

    #[derive(Debug, Default)]
    struct Stopped(AtomicU64);

    impl Clock for Stopped {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn wall_ms(&self) -> u64 {
            0
        }
    }

    #[test]
    fn what_is_too_much_for_the_full_path_or_waits_too_long_is_dropped_and_counted() {
        let (clock, stats) = (Arc::new(Stopped::default()), Arc::new(DnsStats::new(2)));
        let front = Front::new(Settings::default()).unwrap();
        let desk = Arc::new(Desk::new(front, View::new(10), clock.clone(), stats.clone()));
        let (unusual, waiting) = sync_channel(UNUSUAL);
        let (socket, stop) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Arc::default());
        let mut fast = desk.fast(1_000, 1);
        let thread = Thread {
            socket: Arc::new(socket),
            desk: desk.clone(),
            shard: 0,
            random: Random::new(1),
            unusual,
            stop: Arc::clone(&stop),
        };
        let full = Full { waiting, desk, shard: 1, stop };
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut reply = Vec::new();
        // NOTIFY; nobody takes it from the queue.
        let query = [0, 7, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..UNUSUAL + 10 {
            thread.answer(&mut fast, &query, peer.local_addr().unwrap(), &mut reply);
        }
        assert_eq!((stats.drops(Dropped::Busy), stats.replies()), (10, 0));
        // One is answered in time, the others are too old.
        full.answer(&full.waiting.recv().unwrap(), &mut reply);
        clock.0.store(1_001, Ordering::Relaxed);
        for _ in 1..UNUSUAL {
            full.answer(&full.waiting.recv().unwrap(), &mut reply);
        }
        assert_eq!((stats.drops(Dropped::Busy), stats.replies()), (UNUSUAL as u64 + 9, 1));
        let mut received = [0; 12];
        assert_eq!(peer.recv(&mut received).unwrap(), 12);
        peer.set_nonblocking(true).unwrap();
        assert!(peer.recv(&mut received).is_err(), "one reply alone");
    }
}
