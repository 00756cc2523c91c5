//! The program that `rollcall run` runs: started with our streams, sent our signals, ended with its code.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal as Number};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::stdout::complain;
use super::super::{Exit, Failure};

/// Exit codes of a program that cannot be started, after the custom of shells.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A running program.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    signals: Vec<(Number, Signal)>,
}

/// Starts the program.
pub(super) fn start(command: &[OsString]) -> Result<Running, Failure> {
    // Caught before the program runs: a signal in between is passed on.
    let signals = caught().map_err(|error| Failure::new(format!("catch signals: {error}")))?;
    let [program, arguments @ ..] = command else {
        return Err(Failure::with(Exit::Usage, "no program to run: give it after --"));
    };
    let child = Command::new(program).args(arguments).spawn().map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        let text = format!("run {}: {error}; nothing was registered", program.to_string_lossy());
        Failure::with(Exit::Child(code), text)
    })?;
    Ok(Running { child, signals })
}

/// The signals that are passed on.
fn caught() -> io::Result<Vec<(Number, Signal)>> {
    let passed = [
        (Number::TERM, SignalKind::terminate()),
        (Number::HUP, SignalKind::hangup()),
        (Number::USR1, SignalKind::user_defined1()),
        (Number::USR2, SignalKind::user_defined2()),
        (Number::INT, SignalKind::interrupt()),
        (Number::QUIT, SignalKind::quit()),
    ];
    passed.into_iter().map(|(number, kind)| Ok((number, signal(kind)?))).collect()
}

impl Running {
    /// Waits for the end of the program and passes signals on meanwhile.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        let from_terminal = io::stdin().is_terminal();
        loop {
            let received = tokio::select! {
                biased;
                ended = self.child.wait() => {
                    return ended.map_err(|e| Failure::new(format!("wait for the program: {e}")));
                }
                received = any(&mut self.signals) => received,
            };
            // A terminal sends these to the program itself as well: twice would be once too often.
            if from_terminal && [Number::INT, Number::QUIT].contains(&received) {
                continue;
            }
            self.pass_on(received);
        }
    }

    fn pass_on(&self, number: Number) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return };
        if let Err(error) = rustix::process::kill_process(pid, number) {
            complain(&format!("pass signal {number:?} on to the program: {error}"));
        }
    }
}

/// The next signal of any kind.
async fn any(signals: &mut [(Number, Signal)]) -> Number {
    std::future::poll_fn(|context| {
        for (number, signal) in &mut *signals {
            if signal.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*number);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// How this process ends after the program.
pub(super) fn exit(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Child(byte(code)),
        (None, Some(signal)) => Exit::Signal(byte(signal)),
        (None, None) => Exit::Error,
    }
}
