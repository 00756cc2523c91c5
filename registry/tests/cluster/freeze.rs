//! A network that can be frozen: connections stay open, but nothing arrives and nothing leaves, as behind a
//! broken link. What was written before is delivered after the thaw.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use rollcall_registry::net::{
    BoxFuture, Connection, Datagrams, Listener, Net, TokioNet, Transport,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The network of one node.
#[derive(Debug)]
pub(crate) struct FreezeNet(Arc<Gate>);

struct Gate {
    frozen: watch::Sender<bool>,
    wakers: Mutex<Vec<Waker>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("frozen", &*self.frozen.borrow()).finish_non_exhaustive()
    }
}

impl Gate {
    /// Whether the way is free; else the task is woken when it is.
    fn open(&self, cx: &Context<'_>) -> bool {
        let mut wakers = self.wakers.lock().unwrap();
        let frozen = *self.frozen.borrow();
        if frozen {
            wakers.push(cx.waker().clone());
        }
        !frozen
    }
}

impl FreezeNet {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Gate { frozen: watch::Sender::new(false), wakers: Mutex::default() }))
    }

    pub(crate) fn freeze(&self) {
        self.0.frozen.send_replace(true);
    }

    pub(crate) fn thaw(&self) {
        self.0.frozen.send_replace(false);
        self.0.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
    }
}

impl Net for FreezeNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = TokioNet.listen(address).await?;
            let listener: Box<dyn Listener> = Box::new(Gated { inner, gate: self.0.clone() });
            Ok(listener)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let mut frozen = self.0.frozen.subscribe();
            frozen.wait_for(|frozen| !frozen).await.map_err(io::Error::other)?;
            Ok(gated(TokioNet.connect(address).await?, &self.0))
        })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        TokioNet.bind_udp(address)
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        TokioNet.addresses()
    }
}

fn gated(inner: Connection, gate: &Arc<Gate>) -> Connection {
    let (local, remote) = (inner.local_addr(), inner.remote_addr());
    Connection::new(Gated { inner, gate: Arc::clone(gate) }, local, remote)
}

#[derive(Debug)]
struct Gated<T> {
    inner: T,
    gate: Arc<Gate>,
}

impl Listener for Gated<Box<dyn Listener>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(gated(self.inner.accept().await?, &self.gate)) })
    }
}

impl<T: Transport> AsyncRead for Gated<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.gate.open(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Transport> AsyncWrite for Gated<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.gate.open(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gate.open(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gate.open(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
