//! Many instances in one process: it registers them, answers their probes and keeps beating until it is ended. And
//! the hand that a case has on such a process.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rollcall_client::{Client, Registration, v1};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::case::Checked;
use crate::netns::Namespace;
use crate::program::Program;
use crate::stage::Stage;

/// Most registrations of one call.
const BATCH: usize = 1_000;
/// Longest wait for a request.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST_BYTES: usize = 1 << 10;

/// How the instances of a fleet are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Not at all.
    None,
    /// A connection.
    Tcp,
    /// `GET /`.
    Http,
}

/// What a fleet is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the registry answers.
    pub(crate) registry: Vec<SocketAddr>,
    /// The service of all of them.
    pub(crate) service: String,
    /// The endpoint of each instance; its id is `ip-port`.
    pub(crate) targets: Vec<SocketAddr>,
    /// Where to listen for their probes.
    pub(crate) listen: Vec<SocketAddr>,
    /// Length of the lease.
    pub(crate) ttl: Duration,
    /// How they are probed.
    pub(crate) check: Check,
    /// How often.
    pub(crate) interval: Duration,
}

impl Plan {
    /// One instance at one address.
    pub(crate) fn single(registry: &[SocketAddr], at: SocketAddr, check: Check) -> Self {
        Self {
            registry: registry.to_vec(),
            service: super::SERVICE.to_owned(),
            targets: vec![at],
            listen: vec![at],
            ttl: super::TTL,
            check,
            interval: super::INTERVAL,
        }
    }

    /// Starts it, on a machine or here.
    pub(crate) fn start(
        &self,
        stage: &Stage,
        name: &str,
        machine: Option<&Namespace>,
    ) -> Checked<Program> {
        let file = stage.write(&format!("{name}.json"), &self.write().to_string())?;
        let own = std::env::current_exe()?;
        let mut command = machine.map_or_else(|| Command::new(&own), |one| one.command(&own));
        stage.start(name, command.arg("fleet").arg(file))
    }

    fn write(&self) -> Value {
        let list = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "registry": list(&self.registry),
            "service": self.service,
            "targets": list(&self.targets),
            "listen": list(&self.listen),
            "ttl_ms": millis(self.ttl),
            "check": match self.check { Check::None => "none", Check::Tcp => "tcp", Check::Http => "http" },
            "interval_ms": millis(self.interval),
        })
    }

    fn read(value: &Value) -> Checked<Self> {
        let list = |key: &str| -> Checked<Vec<SocketAddr>> {
            let all = value[key].as_array().ok_or("no list")?.iter();
            all.map(|one| Ok(one.as_str().ok_or("no text")?.parse()?)).collect()
        };
        let time =
            |key: &str| Ok::<_, &str>(Duration::from_millis(value[key].as_u64().ok_or("no time")?));
        Ok(Self {
            registry: list("registry")?,
            service: value["service"].as_str().ok_or("no service")?.to_owned(),
            targets: list("targets")?,
            listen: list("listen")?,
            ttl: time("ttl_ms")?,
            check: match value["check"].as_str() {
                Some("tcp") => Check::Tcp,
                Some("http") => Check::Http,
                _ => Check::None,
            },
            interval: time("interval_ms")?,
        })
    }

    fn registration(&self, target: SocketAddr) -> Registration {
        let probe = match self.check {
            Check::None => None,
            Check::Tcp => {
                Some(v1::health_check::Probe::Tcp(v1::health_check::TcpProbe { tls: false }))
            }
            Check::Http => {
                Some(v1::health_check::Probe::Http(v1::health_check::HttpProbe::default()))
            }
        };
        let check = probe.map(|probe| v1::HealthCheck {
            check_id: "alive".to_owned(),
            interval: self.interval.try_into().ok(),
            timeout: super::TIMEOUT.try_into().ok(),
            rise: super::RISE,
            fall: super::FALL,
            probe: Some(probe),
            ..v1::HealthCheck::default()
        });
        let spec = v1::InstanceSpec {
            endpoints: vec![v1::Endpoint {
                name: "main".to_owned(),
                host: target.ip().to_string(),
                port: target.port().into(),
                ..v1::Endpoint::default()
            }],
            health_checks: check.into_iter().collect(),
            ttl: self.ttl.try_into().ok(),
            ..v1::InstanceSpec::default()
        };
        Registration::new(&self.service).spec(spec)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Is the process of a fleet, until it is ended.
pub(crate) fn play(plan: &Path) -> Checked {
    let plan = Plan::read(&serde_json::from_str(&fs::read_to_string(plan)?)?)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build()?.block_on(hold(plan))
}

async fn hold(plan: Plan) -> Checked {
    let failing = Arc::new(AtomicBool::new(false));
    for address in &plan.listen {
        let listener = TcpListener::bind(address).await?;
        tokio::spawn(serve(listener, failing.clone()));
    }
    let client = Client::new(plan.registry.iter().map(ToString::to_string))?;
    let mut guards = Vec::new();
    for targets in plan.targets.chunks(BATCH) {
        let batch = targets.iter().map(|target| plan.registration(*target)).collect();
        guards.extend(client.register_all(batch).await?);
    }
    std::future::pending::<()>().await;
    drop(guards);
    Ok(())
}

async fn serve(listener: TcpListener, failing: Arc<AtomicBool>) {
    loop {
        // Out of files: the next one may succeed.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let failing = failing.clone();
        tokio::spawn(timeout(PATIENCE, answer(stream, failing)));
    }
}

/// One request, one answer, end. `/fail` makes all further answers failures.
async fn answer(mut stream: TcpStream, failing: Arc<AtomicBool>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES || !matches!(stream.read_buf(&mut request).await, Ok(1..))
        {
            return;
        }
    }
    if request.starts_with(b"GET /fail ") {
        failing.store(true, Ordering::SeqCst);
    }
    let code = if failing.load(Ordering::SeqCst) { "503 Service Unavailable" } else { "200 OK" };
    let text = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // A caller that goes away is its own matter.
    let _ = stream.write_all(text.as_bytes()).await;
}
