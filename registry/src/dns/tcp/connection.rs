//! One TCP connection: read a query, answer it, go on with the next one.

use super::Held;
use crate::{dns::desk::Arrival, net::Connection};
use bytes::{Buf, BytesMut};
use rollcall_dns::Transport;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// Bytes of the length in front of each message.
const PREFIX: usize = 2;
/// Longest query. Nobody asks for more; an update or a transfer with a signature is shorter too.
const QUERY_BYTES: usize = 4096;
/// Replies are written when so many bytes of them wait.
const WRITE_BYTES: usize = 64 << 10;
/// After so many answers, or one that took so long, others have their turn.
const TURN: usize = 16;
const LONG: Duration = Duration::from_millis(1);
/// Time for a proper end.
const LINGER: Duration = Duration::from_millis(200);

/// What is said on a connection.
#[derive(Debug)]
pub(super) struct Conversation {
    connection: Connection,
    peer: SocketAddr,
    /// Bytes that were read and not yet answered.
    unread: BytesMut,
    /// Replies that wait to be written, each with its length in front.
    unwritten: Vec<u8>,
    reply: Vec<u8>,
}

/// The connection is over.
#[derive(Debug)]
struct Over;

impl Conversation {
    pub(super) fn new(connection: Connection, peer: SocketAddr) -> Self {
        let (unread, unwritten, reply) = (BytesMut::new(), Vec::new(), Vec::new());
        Self { connection, peer, unread, unwritten, reply }
    }

    /// Answers until the client goes, is too slow, or says what is no DNS.
    pub(super) async fn hold(&mut self, place: &Held) {
        while self.exchange(place).await.is_ok() {}
        let _ = timeout(LINGER, self.connection.shutdown()).await;
    }

    /// Waits for at least one query, answers all that have come, and writes the replies.
    async fn exchange(&mut self, place: &Held) -> Result<(), Over> {
        let deadline = Instant::now() + place.patience();
        while self.whole()?.is_none() {
            self.unread.reserve(PREFIX + QUERY_BYTES);
            let read = timeout_at(deadline, self.connection.read_buf(&mut self.unread)).await;
            let Ok(Ok(1..)) = read else { return Err(Over) };
        }
        let mut turn = 0;
        while let Some(length) = self.whole()? {
            let begun = place.shared.desk.now();
            let answered = self.answer(length, place);
            turn += 1;
            if turn == TURN || place.shared.desk.now().saturating_sub(begun) > LONG {
                turn = 0;
                tokio::task::yield_now().await;
            }
            if !answered || self.unwritten.len() >= WRITE_BYTES {
                self.write(place).await?;
            }
            if !answered {
                return Err(Over);
            }
        }
        self.write(place).await?;
        place.used();
        Ok(())
    }

    /// The length of the next query, once all of it is there.
    fn whole(&self) -> Result<Option<usize>, Over> {
        let Some(prefix) = self.unread.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length > QUERY_BYTES {
            return Err(Over);
        }
        Ok((self.unread.len() >= PREFIX + length).then_some(length))
    }

    /// False: it was no query. Who sends such a thing on a connection has lost its step, or means no good.
    fn answer(&mut self, length: usize, place: &Held) -> bool {
        let shared = &place.shared;
        self.unread.advance(PREFIX);
        let query = self.unread.split_to(length);
        let arrival = Arrival {
            bytes: &query,
            peer: self.peer,
            transport: Transport::Tcp,
            random: shared.random.bits(),
            waited_since: None,
        };
        if !shared.desk.answer(arrival, shared.shard, &mut self.reply) {
            return false;
        }
        let Ok(length) = u16::try_from(self.reply.len()) else { return false };
        self.unwritten.extend(length.to_be_bytes());
        self.unwritten.append(&mut self.reply);
        true
    }

    /// Lengths and messages leave in one write where the network takes them at once.
    async fn write(&mut self, place: &Held) -> Result<(), Over> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let patience = place.shared.limits.write;
        let written = timeout(patience, async {
            self.connection.write_all(&self.unwritten).await?;
            self.connection.flush().await
        });
        let Ok(Ok(())) = written.await else { return Err(Over) };
        self.unwritten.clear();
        // An answer of 64 KiB was an exception: do not hold its memory for as long as the connection lives.
        self.unwritten.shrink_to(QUERY_BYTES);
        self.reply.shrink_to(QUERY_BYTES);
        Ok(())
    }
}
