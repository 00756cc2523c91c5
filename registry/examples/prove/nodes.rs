//! Real processes: started, killed, started again, and ended with this one.

use crate::{
    load,
    report::{Outcome, Problem},
};
use rollcall_proto::v1;
use std::{
    ffi::OsString,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Below the ports that the system hands out by itself, so that a killed node finds its own again.
const PORTS: std::ops::Range<u16> = 17_000..32_000;
/// Longest wait for a node.
const READY: Duration = Duration::from_secs(30);

/// Where processes run.
pub(crate) struct Lab {
    binary: PathBuf,
    dir: TempDir,
    ports: std::ops::Range<u16>,
}

impl Lab {
    /// Finds the binary and makes a directory.
    pub(crate) fn open(binary: Option<PathBuf>, keep: bool) -> Outcome<Self> {
        let binary = match binary {
            Some(binary) => binary,
            None => beside()?,
        };
        if !binary.is_file() {
            return Err(
                format!("{} is no file: build it or pass --rollcall", binary.display()).into()
            );
        }
        let dir =
            tempfile::Builder::new().prefix("rollcall-prove-").disable_cleanup(keep).tempdir()?;
        Ok(Self { binary, dir, ports: PORTS })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command of the binary.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// What a command prints.
    pub(crate) fn output(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.command().args(arguments).stdout(Stdio::piped()).output()?;
        Ok(format!(
            "$ rollcall {}\n{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout)
        ))
    }

    /// A port of loopback that nobody has.
    pub(crate) fn port(&mut self) -> Outcome<u16> {
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        self.ports.find(free).ok_or_else(|| "no port is free".into())
    }

    /// A node, not started.
    pub(crate) fn server(&mut self, name: &str, settings: &[&str]) -> Outcome<Server> {
        let mut address =
            || Ok::<_, Problem>(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()?)));
        let (api, http, dns, peer) = (address()?, address()?, address()?, address()?);
        let data = self.dir().join(name);
        let mut arguments: Vec<OsString> = vec!["server".into(), "--name".into(), name.into()];
        arguments.extend(["--data-dir".into(), data.clone().into_os_string()]);
        for (flag, address) in [
            ("--listen-grpc", api),
            ("--listen-http", http),
            ("--listen-dns", dns),
            ("--listen-peer", peer),
        ] {
            arguments.extend([flag.into(), address.to_string().into()]);
        }
        for setting in settings {
            arguments.extend(["--set".into(), (*setting).into()]);
        }
        let log = self.dir().join(format!("{name}.log"));
        let binary = self.binary.clone();
        Ok(Server { name: name.to_owned(), binary, arguments, log, api, peer, child: None })
    }

    /// One node that leads itself.
    pub(crate) async fn single(&mut self, settings: &[&str]) -> Outcome<Server> {
        let mut server = self.server("n1", settings)?;
        server.arguments.push("--bootstrap".into());
        server.start()?;
        server.ready().await?;
        Ok(server)
    }

    /// Three nodes of one cluster, all voters. `prefix` tells clusters of one lab apart.
    pub(crate) async fn three(&mut self, prefix: &str, settings: &[&str]) -> Outcome<Vec<Server>> {
        let mut servers = Vec::new();
        for number in 1..=3 {
            let mut server = self.server(&format!("{prefix}{number}"), settings)?;
            match servers.first() {
                None => server.arguments.push("--bootstrap".into()),
                Some(Server { peer, .. }) => {
                    server.arguments.extend(["--join".into(), peer.to_string().into()]);
                }
            }
            server.start()?;
            server.ready().await?;
            servers.push(server);
        }
        let until = Instant::now() + READY;
        loop {
            let status = load::status(&servers[0].api).await?;
            let voter = |member: &v1::Member| {
                [v1::MemberRole::Leader, v1::MemberRole::Follower].contains(&member.role())
            };
            if status.members.iter().filter(|member| voter(member)).count() == 3 {
                return Ok(servers);
            }
            if Instant::now() > until {
                return Err(format!("three voters: not within {READY:?}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn beside() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    // target/release/examples/prove, and the binary is in target/release.
    let directory = own.parent().and_then(Path::parent).ok_or("this program stands nowhere")?;
    Ok(directory.join("rollcall"))
}

/// The index of the node that leads, as the first living node sees it that knows one.
pub(crate) async fn leader_of(servers: &[Server]) -> Outcome<usize> {
    let until = Instant::now() + READY;
    while Instant::now() < until {
        for (at, server) in servers.iter().enumerate().filter(|(_, server)| server.is_running()) {
            let Ok(status) = load::status(&server.api).await else { continue };
            if status.role() == v1::MemberRole::Leader {
                return Ok(at);
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(format!("a leader: not within {READY:?}").into())
}

/// A process with everything that it started.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> Outcome<Self> {
        Ok(Self(command.spawn()?))
    }

    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }

    /// kill -9 of the process, and then of what it left behind.
    pub(crate) fn kill(&mut self) {
        let children = children(self.0.id());
        // It may have ended by itself: it is gone either way.
        let _ = self.0.kill();
        let _ = self.0.wait();
        for child in children.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
    }
}

/// The processes that the threads of a process have started.
fn children(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let parsed = lists.flat_map(|list| {
        let ids = list.split_whitespace().filter_map(|id| id.parse().ok());
        ids.collect::<Vec<i32>>()
    });
    parsed.collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node, running or not. Its data and its addresses stay.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) api: SocketAddr,
    binary: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    peer: SocketAddr,
    child: Option<Child>,
}

impl Server {
    /// Starts the process and waits for nothing.
    pub(crate) fn start(&mut self) -> Outcome {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself: it is gone either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until it hears a leader and is in step with it.
    pub(crate) async fn ready(&mut self) -> Outcome {
        let until = Instant::now() + READY;
        while Instant::now() < until {
            if let Some(ended) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(format!("{} ended: {ended}; {tail:?}", self.name).into());
            }
            if let Ok(status) = load::status(&self.api).await
                && status.leader_node_id != 0
                && status.staleness.is_some()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err(format!("{}: not ready within {READY:?}", self.name).into())
    }

    /// Resident memory in bytes, and how much of it is not shared with files.
    pub(crate) fn memory(&self) -> Outcome<(u64, u64)> {
        let pid = self.child.as_ref().ok_or("the node does not run")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Outcome<u64> {
            let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such field")?;
            let kib = line.split_whitespace().nth(1).ok_or("no value")?;
            Ok(kib.parse::<u64>()? << 10)
        };
        Ok((field("VmRSS:")?, field("RssAnon:")?))
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let pid = self.child.as_ref().ok_or("the node does not run")?.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after = stat.rsplit(')').next().ok_or("no stat")?;
        let ticks = after.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A hundred ticks a second wherever Linux runs.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
