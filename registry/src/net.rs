//! The network as a value: everything the node listens on or connects to goes through [`Net`], so that a
//! simulation can own it. [`TokioNet`] is the real one; it sets TCP_NODELAY on both ends of every connection,
//! without which a stream that alternates between the two sides crawls at 40 ms a step.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A thread that blocks in a socket is let go so often, to see whether it shall end.
pub const THREAD_LOOK: Duration = Duration::from_millis(100);
/// Bytes that a UDP socket may hold for its thread, as far as the system allows.
const UDP_BUFFER: usize = 4 << 20;

/// A future that can be named.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The sockets that a node needs, and no others.
pub trait Net: fmt::Debug + Send + Sync + 'static {
    /// Listens on a TCP address; port 0 takes any free one.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Opens a TCP connection. The caller sets the deadline.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>>;
    /// Binds a UDP address; port 0 takes any free one.
    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>>;
    /// The addresses of this machine, on all of which a wildcard listens.
    fn addresses(&self) -> io::Result<Vec<IpAddr>>;
    /// Binds `count` UDP sockets to one address, for threads that block in them; the network shares datagrams out by
    /// sender. They return from a wait after [`THREAD_LOOK`]. `None`: this network has none, see [`Net::bind_udp`].
    fn bind_threads(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> Option<io::Result<Vec<std::net::UdpSocket>>> {
        let _ = (address, count);
        None
    }
}

/// A listening TCP socket.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// The address with the port that was taken.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Takes its events from the runtime that is current now, and no longer from that in which it began to listen.
    fn move_here(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>>;
}

/// A bound UDP socket.
pub trait Datagrams: fmt::Debug + Send + Sync + 'static {
    /// The address with the port that was taken.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Receives one datagram: its length and its sender. What does not fit into `buf` is lost.
    fn recv_from<'a>(&'a self, buf: &'a mut [u8])
    -> BoxFuture<'a, io::Result<(usize, SocketAddr)>>;
    /// Sends one datagram.
    fn send_to<'a>(&'a self, data: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>>;
}

/// What a [`Connection`] runs over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// An open TCP connection; tonic serves it and dials with it.
pub struct Connection {
    transport: Box<dyn Transport>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
}

impl Connection {
    /// A connection over `transport` between two addresses, where they are known.
    pub fn new(
        transport: impl Transport,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> Self {
        Self { transport: Box::new(transport), local, remote }
    }

    /// The address of the other side.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The address of this side.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local, remote_addr: self.remote }
    }
}

/// The connections of a listener as a stream that never ends: what tonic's `serve_with_incoming` takes.
/// An accept that fails (too many open files, a peer gone at once) is logged and tried again after 20 ms.
pub fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Connection>> + Send {
    futures_util::stream::unfold(listener, |mut listener| async move {
        loop {
            match listener.accept().await {
                Ok(connection) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    })
}

/// The network of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioNet;

impl Net for TokioNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = Box::new(TcpListener::bind(address).await?);
            Ok(listener)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { without_delay(TcpStream::connect(address).await?) })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let socket: Box<dyn Datagrams> = Box::new(UdpSocket::bind(address).await?);
            Ok(socket)
        })
    }

    fn bind_threads(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> Option<io::Result<Vec<std::net::UdpSocket>>> {
        Some((0..count).map(|_| shared_udp(address)).collect())
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip()).collect())
    }
}

fn shared_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // A system that allows less gives less: bursts are lost earlier.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_read_timeout(Some(THREAD_LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn without_delay(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
    Ok(Connection::new(stream, local, remote))
}

impl Listener for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn move_here(&mut self) -> io::Result<()> {
        let socket = std::net::TcpListener::from(self.as_fd().try_clone_to_owned()?);
        *self = Self::from_std(socket)?;
        Ok(())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let (stream, _) = Self::accept(self).await?;
            without_delay(stream)
        })
    }
}

impl Datagrams for UdpSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn recv_from<'a>(
        &'a self,
        buf: &'a mut [u8],
    ) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(Self::recv_from(self, buf))
    }

    fn send_to<'a>(&'a self, data: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(Self::send_to(self, data, to))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Two small writes, then a wait for the answer: with Nagle's algorithm the second one waits for the
    /// acknowledgement of the first, which the other side delays by 40 ms.
    async fn say_twice(connection: &mut Connection) {
        for byte in [1, 2] {
            connection.write_all(&[byte]).await.unwrap();
            connection.flush().await.unwrap();
        }
    }

    #[tokio::test]
    async fn neither_end_holds_back_small_writes() {
        let mut listener = TokioNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = tokio::spawn(async move { listener.accept().await.unwrap() });
        let mut dialled = TokioNet.connect(address).await.unwrap();
        let mut accepted = accept.await.unwrap();
        assert_eq!(dialled.remote_addr(), Some(address));
        assert_eq!(accepted.local_addr(), Some(address));
        let rounds = 100;
        let echo = tokio::spawn(async move {
            let mut both = [0; 2];
            for _ in 0..rounds {
                accepted.read_exact(&mut both).await.unwrap();
                say_twice(&mut accepted).await;
            }
        });
        let start = tokio::time::Instant::now();
        let mut both = [0; 2];
        for _ in 0..rounds {
            say_twice(&mut dialled).await;
            dialled.read_exact(&mut both).await.unwrap();
        }
        let took = start.elapsed();
        echo.await.unwrap();
        assert!(took < Duration::from_millis(10) * rounds, "{rounds} rounds took {took:?}");
    }
}
