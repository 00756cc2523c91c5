//! The registry's and the client's sockets on turmoil.

use rollcall_client::Connector;
use rollcall_registry::net::{BoxFuture, Connection, Datagrams, Listener, Net};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// The network of a simulated machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimNet;

struct SimListener(TcpListener);

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimListener")
    }
}

struct SimDatagrams(UdpSocket);

impl fmt::Debug for SimDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDatagrams")
    }
}

fn connection(stream: TcpStream) -> Connection {
    let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
    Connection::new(stream, local, remote)
}

impl Net for SimNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> =
                Box::new(SimListener(TcpListener::bind(address).await?));
            Ok(listener)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(connection(TcpStream::connect(address).await?)) })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let socket: Box<dyn Datagrams> =
                Box::new(SimDatagrams(UdpSocket::bind(address).await?));
            Ok(socket)
        })
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        // A simulated machine has one, which it announces.
        Ok(Vec::new())
    }
}

impl Listener for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let (stream, _) = self.0.accept().await?;
            Ok(connection(stream))
        })
    }
}

impl Datagrams for SimDatagrams {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn recv_from<'a>(
        &'a self,
        buf: &'a mut [u8],
    ) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(self.0.recv_from(buf))
    }

    fn send_to<'a>(&'a self, data: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(self.0.send_to(data, to))
    }
}

/// The client library's sockets on turmoil.
pub fn connector() -> Connector {
    Connector::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect((address.host().to_owned(), address.port())).await?;
            let local = stream.local_addr().ok();
            Ok(rollcall_client::Connection::new(stream, local))
        })
    })
}
