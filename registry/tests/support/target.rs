//! Targets of checks, and registrations that name them.

use super::{Running, eventually, instance_name};
use rollcall_core::record::HealthStatus;
use rollcall_proto::v1::{self, health_check::Probe};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// An HTTP server that answers with the code it is told to, and counts its connections.
pub struct Target {
    pub address: SocketAddr,
    code: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
}

impl Target {
    pub async fn new(code: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (code, connections) = (Arc::new(AtomicU16::new(code)), Arc::new(AtomicUsize::new(0)));
        let (says, count) = (code.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let code = says.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 4\r\n\r\nsaid");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Self { address, code, connections }
    }

    pub fn says(&self, code: u16) {
        self.code.store(code, Ordering::SeqCst);
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub fn millis(millis: u32) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1_000 * 1_000_000).unwrap();
    Some(prost_types::Duration { seconds: (millis / 1_000).into(), nanos })
}

/// An HTTP check every 100 ms that needs one success and two failures.
pub fn http() -> v1::HealthCheck {
    v1::HealthCheck {
        check_id: "http".into(),
        interval: millis(100),
        timeout: millis(100),
        rise: 1,
        fall: 2,
        startup_grace: millis(0),
        probe: Some(Probe::Http(v1::health_check::HttpProbe::default())),
        ..Default::default()
    }
}

pub fn at(mut registration: v1::Registration, address: SocketAddr) -> v1::Registration {
    let spec = registration.spec.as_mut().unwrap();
    spec.endpoints[0].host = address.ip().to_string();
    spec.endpoints[0].port = address.port().into();
    registration
}

pub fn checked(mut registration: v1::Registration, check: v1::HealthCheck) -> v1::Registration {
    registration.spec.as_mut().unwrap().health_checks.push(check);
    registration
}

impl Running {
    pub async fn comes_to(&self, id: &str, health: HealthStatus) {
        let what = format!("{id} is {health:?}");
        eventually(&what, || self.health("web", id) == Some(health)).await;
    }

    pub async fn instance(&self, id: &str) -> v1::GetInstanceResponse {
        let request = v1::GetInstanceRequest {
            name: Some(instance_name("web", id)),
            with_outputs: true,
            ..Default::default()
        };
        self.discovery().get_instance(request).await.expect("get").into_inner()
    }
}
