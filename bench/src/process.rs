//! Servers as processes: started on a core of their own where wanted, looked at from outside, ended with the value.

use crate::outcome::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Below the ports that the system hands out by itself, so that a killed server finds its own again.
const FIRST_PORT: u16 = 17_000;
const LAST_PORT: u16 = 31_000;
/// Time to end by itself after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On core 0; the load has core 1.
    Core0,
    /// Wherever the system likes: several servers and the load share the machine.
    Anywhere,
}

/// A port of loopback that nobody has, over UDP and TCP. Each is handed out once.
pub(crate) fn port() -> Outcome<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port > LAST_PORT {
            return Err("no port of loopback is left".into());
        }
        let here = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok() {
            return Ok(port);
        }
    }
}

/// A program, its arguments and what is running of it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    place: Place,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started. What it prints goes to `directory/name.log`.
    pub(crate) fn new(name: &str, program: &Path, place: Place, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            place,
            log: directory.join(format!("{name}.log")),
            child: None,
        }
    }

    pub(crate) fn arguments<T: Into<String>>(mut self, more: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// Starts it and waits for nothing.
    pub(crate) fn start(&mut self) -> Outcome {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match self.place {
            Place::Core0 => {
                // Before the start: Go and tokio count the cores that they may use.
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(&self.program);
                command
            }
            Place::Anywhere => Command::new(&self.program),
        };
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("start {}: {error}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// An error with the end of its log, where it has ended by itself.
    pub(crate) fn check(&mut self) -> Outcome {
        if let Some(ended) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(4).collect();
            return Err(format!("{} ended: {ended}; {tail:?}", self.name).into());
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself: it is gone either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and SIGKILL where that is not heard.
    pub(crate) fn stop(&mut self) {
        let asked = self.signal(Signal::TERM).is_ok();
        let until = std::time::Instant::now() + FAREWELL;
        while asked && std::time::Instant::now() < until {
            if matches!(self.has_ended(), Ok(true)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Sends a signal and waits for nothing.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(kill_process(pid.ok_or("not running")?, signal)?)
    }

    /// Whether it is not running, or not any more.
    pub(crate) fn has_ended(&mut self) -> Outcome<bool> {
        if let Some(child) = &mut self.child
            && child.try_wait()?.is_some()
        {
            self.child = None;
        }
        Ok(self.child.is_none())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What processes have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) memory: u64,
}

/// Sum over these processes.
pub(crate) fn used(pids: &[u32]) -> Outcome<Used> {
    let pids: Vec<sysinfo::Pid> = pids.iter().map(|pid| sysinfo::Pid::from_u32(*pid)).collect();
    let mut system = System::new()?;
    let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, what);
    let mut used = Used::default();
    for process in pids.iter().filter_map(|pid| system.process(*pid)) {
        used.cpu += Duration::from_millis(process.accumulated_cpu_time());
        used.memory += process.memory();
    }
    Ok(used)
}
