//! Starting the program, waiting for it, reading what it says.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

/// Longest time for anything that should happen. Generous: the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Its output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Checks that the output holds all of these.
    #[track_caller]
    pub(crate) fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "no {part:?} in {self:?}");
        }
        self
    }

    /// Checks that the messages hold all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        self
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    messages: Receiver<String>,
}

/// The program with these arguments and a clean environment.
pub(crate) fn program<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("ROLLCALL_ADDR");
    command
}

fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Starts a program.
#[track_caller]
pub(crate) fn start(mut command: Command) -> Running {
    let mut child = command.spawn().unwrap();
    let stdout: ChildStdout = child.stdout.take().unwrap();
    let lines = lines_of(stdout);
    let messages = lines_of(child.stderr.take().unwrap());
    Running { child, lines, messages }
}

/// Runs a program to its end.
#[track_caller]
pub(crate) fn finish(command: Command) -> Ended {
    start(command).end()
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The next line of its output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(_) => {
                self.signal(Signal::KILL);
                let said: Vec<_> = self.messages.iter().collect();
                panic!("no further line of output; messages: {said:#?}");
            }
        }
    }

    /// The next message that holds this.
    #[track_caller]
    pub(crate) fn message(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut said = Vec::new();
        while let Ok(message) =
            self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if message.contains(part) {
                return message;
            }
            said.push(message);
        }
        panic!("no message with {part:?} in {said:#?}");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                let said: Vec<_> = self.messages.iter().collect();
                panic!("it has not ended within {DEADLINE:?}; messages: {said:#?}");
            }
            thread::sleep(LOOK);
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        for line in self.lines.iter() {
            out += &(line + "\n");
        }
        for line in self.messages.iter() {
            err += &(line + "\n");
        }
        Ended { code, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(LOOK);
    }
}

/// A registry: `rollcall dev` on free ports.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) process: Running,
    /// The line that it printed when it was ready.
    pub(crate) ready: Value,
    _data: tempfile::TempDir,
}

impl Registry {
    /// One node.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With further arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut command = program(["dev", "-o", "json", "--port-base", "0"]);
        command.arg("--data-dir").arg(data.path().join("data")).args(arguments);
        let mut process = start(command);
        let line = process.line();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self { process, ready, _data: data }
    }

    /// Address of the API of a node, counted from 0.
    pub(crate) fn address(&self, node: usize) -> &str {
        self.ready["nodes"][node]["grpc"].as_str().unwrap()
    }

    /// A command to be sent to the first node.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("ROLLCALL_ADDR", self.address(0));
        command
    }

    /// Asks the first node.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments))
    }

    /// Asks the first node for JSON, which it must give with success.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        self.ask(&arguments).exits(0).json()
    }

    /// Lists an instance that needs no heartbeats.
    #[track_caller]
    pub(crate) fn list(&self, service: &str, id: &str, more: &[&str]) {
        let given =
            ["register", service, "--id", id, "--persistent", "--endpoint", "http=127.0.0.1:8080"];
        let arguments: Vec<_> = given.iter().chain(more).copied().collect();
        self.ask(&arguments).exits(0);
    }

    /// The ids that a service resolves to.
    pub(crate) fn resolves(&self, service: &str) -> Vec<String> {
        let ended = self.ask(&["resolve", service, "-o", "json"]);
        let instances = ended.json()["instances"].as_array().unwrap().clone();
        let id = |instance: &Value| instance["instance_id"].as_str().unwrap().to_owned();
        instances.iter().map(id).collect()
    }
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
