//! DNS over TCP (RFC 7766): each message with its length in front, as many on a connection as the client likes, answered
//! in order. What a connection costs is bounded: one query is read at a time and at most 4 KiB long, at most 64 KiB of
//! replies wait to be written (and the one that goes over), and a connection that has not finished a query within the
//! idle time, however many bytes it sent, is closed. In production all of them share one thread of their own, so that
//! what they ask costs the rest of the node nothing but that core.

mod connection;
pub mod places;

use super::desk::Desk;
use crate::{
    host::Random,
    net::{Connection, Listener},
};
use connection::Conversation;
use places::{Place, Places};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept.
const RETRY: Duration = Duration::from_millis(20);

/// Bounds on connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections at a time. The next one takes the place of the one that has been idle for longest.
    pub connections: usize,
    /// Connections of one IP address at a time (IPv6: of one /56); further ones are closed at once.
    pub per_address: usize,
    /// A query must be complete so long after the one before it, or after the connection was made. A fifth of it while
    /// more than half of the connections are taken.
    pub idle: Duration,
    /// The client must take its replies within this.
    pub write: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            connections: 1_000,
            per_address: 100,
            idle: Duration::from_secs(10),
            write: Duration::from_secs(5),
        }
    }
}

/// What all connections share.
#[derive(Debug, Clone)]
pub(super) struct TcpServer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    desk: Arc<Desk>,
    limits: TcpLimits,
    shard: usize,
    random: Random,
    places: Mutex<Places>,
}

impl TcpServer {
    /// A server whose counts go to `shard`.
    pub(super) fn new(desk: Arc<Desk>, limits: TcpLimits, shard: usize, random: Random) -> Self {
        let places = Mutex::new(Places::new(limits.connections, limits.per_address));
        Self(Arc::new(Shared { desk, limits, shard, random, places }))
    }

    /// Serves until it shall stop; no connection is open afterwards.
    pub(super) async fn serve(self, mut listener: Box<dyn Listener>, stop: CancellationToken) {
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = open.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(connection) => self.take(connection, &mut open),
                Err(error) => {
                    tracing::warn!(%error, "accept a DNS connection");
                    // It may be for lack of open files, of which an idle connection holds one.
                    if let Some(idle) = self.0.places().evict() {
                        idle.cancel();
                        self.0.desk.stats().evicted();
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        open.shutdown().await;
    }

    fn take(&self, connection: Connection, open: &mut JoinSet<()>) {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let peer = connection.remote_addr().unwrap_or(unknown);
        let stats = self.0.desk.stats();
        let cut = CancellationToken::new();
        let Some((place, evicted)) = self.0.places().take(prefix(peer.ip()), cut.clone()) else {
            stats.refused();
            return;
        };
        if let Some(evicted) = evicted {
            evicted.cancel();
            stats.evicted();
        }
        stats.connected(1);
        let held = Held { shared: self.0.clone(), place };
        open.spawn(async move {
            let mut conversation = Conversation::new(connection, peer);
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = conversation.hold(&held) => {}
            }
        });
    }
}

/// Whose connections count together.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !0 << 72).into()),
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is given back when its connection ends.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    place: Place,
}

impl Held {
    /// How long the connection may take for its next query.
    fn patience(&self) -> Duration {
        let limits = &self.shared.limits;
        let crowded = self.shared.places().is_crowded();
        if crowded { limits.idle / 5 } else { limits.idle }
    }

    /// The connection has just finished a query.
    fn used(&self) {
        self.shared.places().used(self.place);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.places().leave(self.place);
        self.shared.desk.stats().connected(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_subscriber_count_together() {
        let of = |text: &str| prefix(text.parse().unwrap()).to_string();
        assert_eq!(of("10.1.2.3"), "10.1.2.3");
        assert_eq!(of("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(of("2001:db8:1:2ff:aa::1"), "2001:db8:1:200::");
    }
}
