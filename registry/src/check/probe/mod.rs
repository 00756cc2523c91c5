//! One probe: one connection to one registered address, and what came of it, within its timeout.
//!
//! * `tls`: the handshake; `http`, `grpc`: what is asked inside; `output`: what is shown of the answer
//!
//! The target is hostile until proved otherwise: it is connected to once, never followed anywhere, and neither its
//! answer nor its silence takes more than the bounds here. Who may be probed at all is decided in [`super::egress`].

mod grpc;
#[cfg(test)]
mod hostile;
mod http;
pub(crate) mod output;
#[cfg(test)]
mod tests;
mod tls;

use super::egress::Egress;
use crate::{clock::Clock, host::Host, net::Connection, net::Net};
use output::printable;
use rollcall_core::check::{Failure, Probe, Probed};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tls::{Inside, Tls};
use tokio::time::{Instant, timeout_at};

/// Longest output of a probe, and the most that is read of a body.
pub const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// Why a probe failed, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    why: Failure,
    text: String,
}

impl Failed {
    fn new(why: Failure, text: impl Into<String>) -> Self {
        Self { why, text: text.into() }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the judge needs to know.
    pub probed: Probed,
    /// What was seen, printable, at most [`OUTPUT_BYTES_MAX`].
    pub output: Arc<str>,
}

impl Report {
    /// Whether the target passed.
    pub fn passed(&self) -> bool {
        self.probed.failure.is_none()
    }
}

/// Runs probes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prober {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    tls: Tls,
    egress: Egress,
}

impl Prober {
    /// A prober over the sockets of this host, to where `egress` allows.
    pub fn new(host: &Host, egress: Egress) -> Self {
        Self { net: host.net.clone(), clock: host.clock.clone(), tls: Tls::new(), egress }
    }

    /// Probes `address` once. Ends within `timeout`, whatever the target does.
    pub async fn probe(&self, address: SocketAddr, probe: &Probe, timeout: Duration) -> Report {
        let began = self.clock.monotonic();
        let deadline = Instant::now() + timeout;
        let result = match timeout_at(deadline, Box::pin(self.run(address, probe, deadline))).await
        {
            Ok(result) => result,
            Err(_) => Err(Failed::new(Failure::Timeout, "no answer in time")),
        };
        let latency = self.clock.monotonic().saturating_sub(began);
        let (failure, text) = match result {
            Ok(text) => (None, text),
            Err(Failed { why: Failure::Timeout, text }) => {
                (Some(Failure::Timeout), format!("{text} ({timeout:?})"))
            }
            Err(Failed { why, text }) => (Some(why), text),
        };
        let output = printable(text.as_bytes(), OUTPUT_BYTES_MAX).into();
        Report { probed: Probed { failure, latency }, output }
    }

    async fn run(
        &self,
        address: SocketAddr,
        probe: &Probe,
        deadline: Instant,
    ) -> Result<String, Failed> {
        let connection = self.open(address).await?;
        match probe {
            Probe::Tcp { tls: false } => Ok(format!("connected to {address}")),
            Probe::Tcp { tls: true } => {
                self.tls.over(connection, address, Inside::Nothing).await?;
                Ok(format!("connected to {address}, TLS handshake done"))
            }
            Probe::Http(wanted) => {
                let connection = match wanted.tls {
                    true => self.tls.over(connection, address, Inside::Http1).await?,
                    false => connection,
                };
                http::probe(connection, address, wanted, deadline).await
            }
            Probe::Grpc { service, tls } => {
                let connection = match tls {
                    true => self.tls.over(connection, address, Inside::H2).await?,
                    false => connection,
                };
                grpc::probe(connection, address, service).await
            }
        }
    }

    /// The one place from which a target is connected to.
    async fn open(&self, address: SocketAddr) -> Result<Connection, Failed> {
        if let Err(why) = self.egress.check(address) {
            return Err(Failed::new(Failure::Forbidden, format!("{address} is not probed: {why}")));
        }
        self.net.connect(address).await.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::ConnectionRefused => Failure::Refused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                    Failure::Closed
                }
                io::ErrorKind::TimedOut => Failure::Timeout,
                _ => Failure::Unreachable,
            };
            Failed::new(why, format!("connect to {address}: {error}"))
        })
    }
}
