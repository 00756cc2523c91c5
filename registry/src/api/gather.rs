//! Connections that gather what they send: one system call for all frames of a turn, instead of one for each.
//!
//! HTTP/2 flushes after every frame of 256 bytes or more, and a change of a service is such a frame for each of its
//! watchers. Here a flush wakes the task of its connection once more and leaves the rest to that turn: it comes when
//! everything that can run now has run, and sends what has come together. A connection that the network does not take
//! from says so as without this.

use crate::net::{BoxFuture, Connection, Listener};
use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes come together at most.
const GATHERED: usize = 32 << 10;
/// Room for the first of them: an answer or two.
const ROOM: usize = 4 << 10;
/// A write of so many bytes is worth a system call of its own, and not worth a copy.
const LARGE: usize = 16 << 10;

/// A listener whose connections gather. For servers of HTTP/2 only: their turns begin with a read.
pub(crate) fn gathering(listener: Box<dyn Listener>) -> Box<dyn Listener> {
    Box::new(Gathering(listener))
}

#[derive(Debug)]
struct Gathering(Box<dyn Listener>);

impl Listener for Gathering {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn move_here(&mut self) -> io::Result<()> {
        self.0.move_here()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let connection = self.0.accept().await?;
            let (local, remote) = (connection.local_addr(), connection.remote_addr());
            Ok(Connection::new(Gathered::new(connection), local, remote))
        })
    }
}

#[derive(Debug)]
struct Gathered<T> {
    transport: T,
    /// To be sent. Nothing is allocated between two bursts: most connections are silent most of the time.
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// The network does not take more now.
    is_blocked: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathered<T> {
    fn new(transport: T) -> Self {
        Self { transport, bytes: Vec::new(), sent: 0, is_blocked: false }
    }

    /// Sends what has come together.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.is_blocked = true;
        while self.sent < self.bytes.len() {
            let rest = &self.bytes[self.sent..];
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        (self.bytes, self.sent, self.is_blocked) = (Vec::new(), 0, false);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A turn begins: what the one before has left goes now. That not all of it can does not keep from reading.
        if let Poll::Ready(sent) = self.poll_send(cx) {
            sent?;
        }
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more = bufs.iter().map(|buf| buf.len()).sum();
        if more >= LARGE {
            ready!(self.poll_send(cx))?;
            return Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        }
        if self.bytes.len() + more > GATHERED {
            ready!(self.poll_send(cx))?;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(ROOM);
        }
        for buf in bufs {
            self.bytes.extend_from_slice(buf);
        }
        Poll::Ready(Ok(more))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.transport).poll_flush(cx);
        }
        if self.is_blocked {
            // To wake this task would only make it ask again; the network wakes it when it takes more.
            return self.poll_send(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::task::{Wake, Waker};

    /// Takes so many bytes in all, and notes the size of each write.
    #[derive(Debug, Default)]
    struct Wire {
        room: usize,
        writes: Vec<usize>,
        is_shut: bool,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.push(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Debug, Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Turns {
        gathered: Gathered<Wire>,
        woken: Arc<Woken>,
    }

    impl Turns {
        fn new(room: usize) -> Self {
            let gathered = Gathered::new(Wire { room, ..Wire::default() });
            Self { gathered, woken: Arc::default() }
        }

        /// What a task does with its connection in a turn.
        fn with<T>(
            &mut self,
            act: impl FnOnce(Pin<&mut Gathered<Wire>>, &mut Context<'_>) -> T,
        ) -> T {
            let waker = Waker::from(self.woken.clone());
            act(Pin::new(&mut self.gathered), &mut Context::from_waker(&waker))
        }

        fn write(&mut self, bytes: usize) -> Poll<io::Result<usize>> {
            self.with(|gathered, cx| gathered.poll_write(cx, &vec![7; bytes]))
        }

        fn flush(&mut self) -> Poll<io::Result<()>> {
            self.with(|gathered, cx| gathered.poll_flush(cx))
        }

        fn read(&mut self) {
            let mut bytes = [0; 8];
            let read =
                self.with(|gathered, cx| gathered.poll_read(cx, &mut ReadBuf::new(&mut bytes)));
            assert!(read.is_pending());
        }

        fn writes(&self) -> &[usize] {
            &self.gathered.transport.writes
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_is_flushed_in_one_turn_is_sent_as_one_with_the_next() {
        let mut turns = Turns::new(usize::MAX);
        for _ in 0..10 {
            assert!(matches!(turns.write(300), Poll::Ready(Ok(300))));
            assert!(matches!(turns.flush(), Poll::Ready(Ok(()))));
        }
        assert!(turns.writes().is_empty());
        assert!(turns.woken() > 0);
        turns.read();
        assert_eq!(turns.writes(), [3_000]);
        assert_eq!(turns.gathered.bytes.capacity(), 0);
        let woken = turns.woken();
        assert!(matches!(turns.flush(), Poll::Ready(Ok(()))));
        assert_eq!(turns.woken(), woken);
    }

    #[test]
    fn a_network_that_takes_nothing_is_waited_for_and_not_asked_again_and_again() {
        let mut turns = Turns::new(1_000);
        assert!(turns.write(3_000).is_ready() && turns.flush().is_ready());
        turns.read();
        let woken = turns.woken();
        assert!(turns.flush().is_pending());
        assert_eq!((turns.woken(), turns.writes()), (woken, &[1_000][..]));
        let mut more = 0;
        while turns.write(LARGE / 2).is_ready() {
            more += 1;
        }
        assert!(more <= GATHERED / (LARGE / 2));
        assert!(turns.gathered.bytes.len() <= GATHERED);
        turns.gathered.transport.room = usize::MAX;
        assert!(turns.flush().is_ready());
        assert_eq!(turns.writes().iter().sum::<usize>(), 3_000 + more * (LARGE / 2));
    }

    #[test]
    fn a_large_write_goes_by_itself_after_what_was_before_it() {
        let mut turns = Turns::new(usize::MAX);
        assert!(turns.write(100).is_ready() && turns.write(LARGE).is_ready());
        assert_eq!(turns.writes(), [100, LARGE]);
    }

    #[test]
    fn nothing_is_lost_when_a_connection_ends() {
        let mut turns = Turns::new(usize::MAX);
        assert!(turns.write(100).is_ready() && turns.flush().is_ready());
        assert!(turns.with(|gathered, cx| gathered.poll_shutdown(cx)).is_ready());
        assert_eq!(turns.writes(), [100]);
        assert!(turns.gathered.transport.is_shut);
    }
}
