//! A program that a case has started: its log, and its end when it is dropped.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::case::Checked;

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// A running program.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    name: String,
}

impl Program {
    /// Starts a program whose output goes to `directory/name.log`.
    pub(crate) fn start(directory: &Path, name: &str, command: &mut Command) -> Checked<Self> {
        let path = directory.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Self::with_streams(name, command)
    }

    /// Starts a program whose streams the caller has chosen.
    pub(crate) fn with_streams(name: &str, command: &mut Command) -> Checked<Self> {
        let child = command.spawn().map_err(|error| format!("start {command:?}: {error}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Fails when the program has ended.
    pub(crate) fn check_alive(&mut self) -> Checked {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended by itself: {status}", self.name).into()),
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it has at the moment, KiB.
    pub(crate) fn memory(&self) -> Checked<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Holds it where it stands, as a machine that hangs does.
    pub(crate) fn pause(&self) -> Checked {
        self.send(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Checked {
        self.send(Signal::CONT)
    }

    fn send(&self, signal: Signal) -> Checked {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("a process without an id")?;
        Ok(kill_process(id, signal)?)
    }

    /// Ends it without a warning, as a crash does.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// What a program that ends by itself writes to its standard output. A code other than 0 is a failure.
pub(crate) fn output(command: &mut Command) -> Checked<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("run {command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}{text}", output.status, complaint.trim()).into())
}

/// Repeats `look` until it gives a value; what it complained of last is the failure.
pub(crate) fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Checked<T>,
) -> Checked<T> {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= deadline => {
                return Err(format!("{what}: not within {within:?}: {why}").into());
            }
            Err(_) => sleep(LOOK),
        }
    }
}

/// The path of a program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root looks.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(name)).find(|path| path.is_file())
}

/// A Python that has this module.
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let system = Path::new("/usr/bin/python3").to_owned();
    let found = [Some(system), find("python3")];
    found.into_iter().flatten().find(|python| {
        let test = format!("import {module}");
        output(Command::new(python).args(["-c", &test])).is_ok()
    })
}

/// A port of `127.0.0.1` that is free for TCP and UDP at the moment.
pub(crate) fn free_port() -> Checked<u16> {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let address: SocketAddr = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
    Err("no port is free for both TCP and UDP".into())
}
