//! Processes: a registry of three nodes, and backends. All of them end with the value that holds them.

use super::Outcome;
use rollcall_client::{Client, ServiceName};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Longest start of a process, and longest end.
const START: Duration = Duration::from_secs(30);
const NODES: u16 = 3;

/// A registry of three nodes in one process.
pub(crate) struct Registry {
    binary: PathBuf,
    data: TempDir,
    base: u16,
    child: Option<Child>,
}

/// One backend.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    child: Child,
    stdin: ChildStdin,
}

pub(crate) fn beside_this_program() -> Outcome<PathBuf> {
    // target/debug/examples/kill: the binary stands one above.
    let here = std::env::current_exe()?;
    let binary = here.ancestors().nth(2).map(|folder| folder.join("rollcall"));
    binary.filter(|binary| binary.exists()).ok_or_else(|| {
        "the registry's binary is not beside this program: build it with `cargo build -p \
         rollcall-registry`, or pass --rollcall"
            .into()
    })
}

impl Registry {
    pub(crate) async fn start(binary: &Path) -> Outcome<Self> {
        let data = tempfile::tempdir()?;
        let base = free_base()?;
        let mut registry = Self { binary: binary.to_owned(), data, base, child: None };
        registry.come_back().await?;
        Ok(registry)
    }

    /// Starts it, on the same ports and with the same data as before.
    pub(crate) async fn come_back(&mut self) -> Outcome {
        let mut child = Command::new(&self.binary)
            .args(["dev", "--nodes", &NODES.to_string(), "--port-base", &self.base.to_string()])
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let line = first_line(&mut child).await?;
        if !line.contains("nodes") {
            return Err(format!("the registry did not start: {line}").into());
        }
        self.child = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) -> Outcome {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..NODES).map(|node| format!("127.0.0.1:{}", self.base + 202 + 10 * node)).collect()
    }

    pub(crate) fn client(&self) -> Outcome<Client> {
        Ok(Client::new(self.addresses())?)
    }

    pub(crate) async fn backend(&self, id: &str) -> Outcome<Running> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["backend", "--registry", &self.addresses().join(","), "--id", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let address = first_line(&mut child).await?.trim().parse()?;
        let stdin = child.stdin.take().ok_or("a backend without standard input")?;
        Ok(Running { address, child, stdin })
    }

    pub(crate) async fn backends(&self, count: usize) -> Outcome<Vec<Running>> {
        let mut backends = Vec::with_capacity(count);
        for number in 0..count {
            backends.push(self.backend(&format!("echo-{number}")).await?);
        }
        Ok(backends)
    }
}

impl Running {
    /// kill -9.
    pub(crate) async fn kill(&mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    pub(crate) fn send(&self, signal: Signal) -> Outcome {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or("the backend has ended")?, signal)?)
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.send(Signal::TERM)?;
        timeout(START, self.child.wait()).await??;
        Ok(())
    }

    /// Tells it how to answer: `well`, `slow` or `fail`.
    pub(crate) async fn tell(&mut self, manner: &str) -> Outcome {
        self.stdin.write_all(format!("{manner}\n").as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }
}

pub(crate) fn service() -> Outcome<ServiceName> {
    Ok(ServiceName::parse("", super::backend::SERVICE)?)
}

async fn first_line(child: &mut Child) -> Outcome<String> {
    let stdout: ChildStdout = child.stdout.take().ok_or("a process without standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(START, lines.next_line()).await??;
    Ok(line.ok_or("a process ended before it was ready")?)
}

/// A port base of which every port is free at the moment.
fn free_base() -> Outcome<u16> {
    let offsets = [0, 200, 202, 300];
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let bases = (20_000..30_000).step_by(400);
    let start = usize::try_from(std::process::id())? % 25;
    bases
        .cycle()
        .skip(start)
        .take(25)
        .find(|base| {
            let nodes = 0..NODES;
            nodes.flat_map(|n| offsets.map(|o| base + o + 10 * n)).all(free)
        })
        .ok_or_else(|| "no 12 free ports between 20000 and 30000".into())
}
