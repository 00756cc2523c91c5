//! A closed loop of UDP queries from one thread: so many are always under way, or so many begin each second.
//!
//! It sends and receives in batches, so that it costs less than any server, and says how often it found nothing to do:
//! where that is never, the load was the limit and not the server.

use super::data::{DOMAIN, Data, service};
use crate::outcome::Outcome;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

const SOCKETS: usize = 8;
const BATCH: usize = 32;
/// A query without an answer for so long is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Microseconds up to which latencies are told apart.
const SLOWEST: usize = 200_000;
/// Not counted at the beginning: so long, and until every service has been asked for.
const WARM_UP: Duration = Duration::from_millis(700);
/// But no longer than this.
const WARM_UP_MOST: Duration = Duration::from_secs(20);

/// What was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    pub(crate) answers: f64,
    pub(crate) p50: usize,
    pub(crate) p99: usize,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    /// Share of looks that found nothing to receive.
    pub(crate) idle: f64,
}

/// How hard to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pressure {
    /// Queries under way at most.
    pub(crate) window: u16,
    /// Queries that begin each second; 0: as fast as the window allows.
    pub(crate) rate: f64,
    pub(crate) length: Duration,
}

/// Loads a server and reports.
pub(crate) fn load(
    address: SocketAddr,
    kind: &str,
    data: Data,
    pressure: Pressure,
) -> Outcome<Report> {
    let asker = Asker::new(kind, data)?;
    wait_until_it_answers(address, &asker)?;
    let mut run = Run::new(address, asker, pressure.window)?;
    run.go(pressure.rate, pressure.length)?;
    Ok(run.report())
}

pub(super) fn wait_until_it_answers(address: SocketAddr, asker: &Asker) -> Outcome<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (began, mut query, mut reply) = (Instant::now(), Vec::new(), [0; 4096]);
    while began.elapsed() < Duration::from_secs(120) {
        Asker { kind: "a", ..asker.clone() }.ask(
            0,
            None,
            &mut SmallRng::seed_from_u64(1),
            &mut query,
        );
        // A server that is not there yet refuses; that is no error here.
        let answered = socket.send(&query).is_ok() && socket.recv(&mut reply).is_ok();
        if answered && (asker.kind == "echo" || (reply[3] & 0x0F == 0 && reply[7] > 0)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{address} does not answer queries of kind {}", asker.kind).into())
}

/// Makes queries.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    kind: &'static str,
    data: Data,
}

impl Asker {
    pub(crate) fn new(kind: &str, data: Data) -> Outcome<Self> {
        const KINDS: [&str; 6] = ["a", "srv", "aaaa", "mix", "random", "echo"];
        let known = KINDS.iter().find(|known| **known == kind);
        Ok(Self { kind: known.ok_or_else(|| format!("{kind}: one of {KINDS:?}"))?, data })
    }

    /// Writes a query, about that service or any, and says how many records its answer has to have.
    pub(crate) fn ask(
        &self,
        id: u16,
        about: Option<usize>,
        dice: &mut SmallRng,
        query: &mut Vec<u8>,
    ) -> usize {
        let kind = match (self.kind, dice.random_range(0..100)) {
            // As resolvers ask: half of the addresses twice, services, and what is not there.
            ("mix", 0..60) => "a",
            ("mix", 60..70) => "aaaa",
            ("mix", 70..95) => "srv",
            ("mix", _) => "random",
            (kind, _) => kind,
        };
        let name = match kind {
            "random" => format!("r{:016x}", dice.random::<u64>()),
            _ => service(about.unwrap_or_else(|| dice.random_range(0..self.data.services))),
        };
        let (number, records): (u16, usize) = match kind {
            "aaaa" => (28, 0),
            "echo" => (1, 0),
            "srv" => (33, self.data.instances),
            "random" => (1, 0),
            _ => (1, self.data.instances),
        };
        query.clear();
        query.extend(id.to_be_bytes());
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        for label in [name.as_str(), "service"].into_iter().chain(DOMAIN.split('.')) {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend(label.bytes());
        }
        query.push(0);
        query.extend(number.to_be_bytes());
        // With EDNS and 1,232 bytes of room.
        query.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        records
    }
}

/// Places for queries under way; a place belongs to one socket.
struct Run {
    asker: Asker,
    sockets: Vec<UdpSocket>,
    free: Vec<VecDeque<u16>>,
    places: Vec<Place>,
    waits: Vec<u32>,
    /// Queries sent, and answers that count.
    sent: usize,
    counted: u64,
    counting: bool,
    lost: u64,
    wrong: u64,
    looks: u64,
    empty: u64,
    took: Duration,
}

#[derive(Clone, Copy)]
struct Place {
    sent: Option<Instant>,
    turn: u16,
    records: usize,
}

impl Run {
    fn new(address: SocketAddr, asker: Asker, window: u16) -> Outcome<Self> {
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(address)?;
            sockets.push(socket);
        }
        let mut free = vec![VecDeque::new(); SOCKETS];
        for place in 0..window {
            free[usize::from(place) % SOCKETS].push_back(place);
        }
        Ok(Self {
            asker,
            sockets,
            free,
            places: vec![Place { sent: None, turn: 0, records: 0 }; window.into()],
            waits: vec![0; SLOWEST + 1],
            sent: 0,
            counted: 0,
            counting: false,
            lost: 0,
            wrong: 0,
            looks: 0,
            empty: 0,
            took: Duration::ZERO,
        })
    }

    fn go(&mut self, rate: f64, length: Duration) -> Outcome<()> {
        let mut dice = SmallRng::seed_from_u64(3);
        let mut headers =
            (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
        let (began, mut sent, mut swept) = (Instant::now(), 0_u64, Instant::now());
        let mut counted_from = None;
        while counted_from.is_none_or(|from: Instant| from.elapsed() < length) {
            let asked = self.sent >= 4 * self.asker.data.services || began.elapsed() > WARM_UP_MOST;
            if counted_from.is_none() && asked && began.elapsed() > WARM_UP {
                counted_from = Some(Instant::now());
                self.counting = true;
            }
            for socket in 0..SOCKETS {
                self.receive(socket, &mut headers.0)?;
                let due = if rate > 0.0 {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "small"
                    )]
                    let all = (began.elapsed().as_secs_f64() * rate) as u64;
                    usize::try_from(all.saturating_sub(sent))?
                } else {
                    BATCH
                };
                sent += self.send(socket, due.min(BATCH), &mut dice, &mut headers.1)?;
            }
            if swept.elapsed() > PATIENCE {
                swept = Instant::now();
                self.sweep();
            }
        }
        self.took = length;
        Ok(())
    }

    fn receive(&mut self, socket: usize, headers: &mut MultiHeaders<()>) -> Outcome<()> {
        self.looks += 1;
        let mut buffers = [[0_u8; 1500]; BATCH];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.sockets[socket].as_raw_fd();
        let received = match recvmmsg(fd, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
        {
            Ok(received) => received,
            Err(nix::errno::Errno::EAGAIN) => {
                self.empty += 1;
                return Ok(());
            }
            Err(error) => return Err(format!("receive: {error}").into()),
        };
        let now = Instant::now();
        for message in received {
            let Some(reply) = message.iovs().next() else { continue };
            let [i0, i1, _, flags, _, _, a0, a1, ..] = *reply else { continue };
            let id = u16::from_be_bytes([i0, i1]);
            // The upper bits are the turn of the place: what comes after it was given up does not count.
            let (at, turn) = (id & 0x0FFF, id >> 12);
            let Some(place) = self.places.get_mut(usize::from(at)) else { continue };
            let Some(sent) = place.sent.filter(|_| place.turn == turn) else { continue };
            place.sent = None;
            self.free[socket].push_back(at);
            if self.counting {
                let records = usize::from(u16::from_be_bytes([a0, a1]));
                let failed = !matches!(flags & 0x0F, 0 | 3);
                self.wrong += u64::from(failed || records != place.records);
                let wait = usize::try_from((now - sent).as_micros())?;
                self.waits[wait.min(SLOWEST)] += 1;
                self.counted += 1;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        socket: usize,
        most: usize,
        dice: &mut SmallRng,
        headers: &mut MultiHeaders<()>,
    ) -> Outcome<u64> {
        let count = self.free[socket].len().min(most);
        if count == 0 {
            return Ok(0);
        }
        let mut queries = vec![Vec::with_capacity(80); count];
        let now = Instant::now();
        for query in &mut queries {
            let at = self.free[socket].pop_front().expect("counted");
            let place = &mut self.places[usize::from(at)];
            place.turn = (place.turn + 1) & 0x0F;
            place.sent = Some(now);
            // A mix needs some rounds before most have been asked for in most ways.
            let rounds = if self.asker.kind == "mix" { 4 } else { 1 };
            let first = self.sent < rounds * self.asker.data.services;
            let about = first.then(|| self.sent % self.asker.data.services);
            self.sent += 1;
            place.records = self.asker.ask(at | place.turn << 12, about, dice, query);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            queries.iter().map(|query| [IoSlice::new(query)]).collect();
        let fd = self.sockets[socket].as_raw_fd();
        let nobody: [Option<()>; BATCH] = [None; BATCH];
        // What a full buffer refuses is lost, and counted as lost when its time is over.
        match sendmmsg(fd, headers, slices.iter(), nobody, [], MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ECONNREFUSED) => {}
            Err(error) => return Err(format!("send: {error}").into()),
        }
        Ok(u64::try_from(count)?)
    }

    /// Gives up what has waited too long.
    fn sweep(&mut self) {
        for (at, place) in self.places.iter_mut().enumerate() {
            if place.sent.is_some_and(|sent| sent.elapsed() > PATIENCE) {
                place.sent = None;
                self.lost += u64::from(self.counting);
                self.free[at % SOCKETS].push_back(u16::try_from(at).expect("a window of u16"));
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    fn report(&self) -> Report {
        let at = |share: f64| {
            let mut left = self.counted as f64 * share;
            let found = self.waits.iter().position(|count| {
                left -= f64::from(*count);
                left <= 0.0
            });
            found.unwrap_or(SLOWEST)
        };
        Report {
            answers: self.counted as f64 / self.took.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            lost: self.lost,
            wrong: self.wrong,
            idle: self.empty as f64 / self.looks.max(1) as f64,
        }
    }
}
