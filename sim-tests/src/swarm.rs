//! Many seeds, a process for each: they are run, compared, counted, and made smaller when they fail.

use crate::{
    faults::TABLE,
    plan::{Length, Overrides, Plan},
    points,
};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// A run that takes longer than this, real time, hangs.
const LONGEST: Duration = Duration::from_secs(300);
/// What is said of it, where other runs name a promise.
pub const HANGS: &str = "hangs";

/// What a run is asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds with faults.
    pub seconds: u64,
    /// The same in steps of the simulation, where that is asked for.
    pub steps: Option<u32>,
    /// Only these faults; `None` = those of the seed.
    pub faults: Option<Vec<String>>,
    /// Divides the number of clients.
    pub fewer: usize,
    /// Id of the planted bug that is at work, in a program that has any.
    pub bug: Option<String>,
}

/// Tells a program in which bugs are planted which one is at work.
pub const BUG_VARIABLE: &str = "ROLLCALL_PLANTED";

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// All promises were kept.
    pub ok: bool,
    /// Its last line, or everything that it says of the failure.
    pub text: String,
}

impl Order {
    /// A run of a seed as it is.
    pub fn new(seed: u64, seconds: u64) -> Self {
        Self { seed, seconds, steps: None, faults: None, fewer: 1, bug: None }
    }

    /// The arguments of the command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".to_owned(), "--seed".to_owned(), self.seed.to_string()];
        match self.steps {
            None => arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]),
            Some(steps) => arguments.extend(["--steps".to_owned(), steps.to_string()]),
        }
        if let Some(faults) = &self.faults {
            arguments.extend(["--faults".to_owned(), faults.join(",")]);
        }
        if self.fewer > 1 {
            arguments.extend(["--fewer".to_owned(), self.fewer.to_string()]);
        }
        arguments
    }

    /// The command that does it again.
    pub fn command(&self) -> String {
        let words = self.arguments().join(" ");
        format!("cargo run --release -p rollcall-sim-tests --bin sim -- {words} --trace")
    }

    /// What the seed says, changed as ordered.
    pub fn plan(&self) -> Plan {
        let length = match self.steps {
            None => Length::Time(Duration::from_secs(self.seconds)),
            Some(steps) => Length::Steps(steps),
        };
        let overrides =
            Overrides { length: Some(length), faults: self.faults.clone(), fewer: self.fewer };
        Plan::of(self.seed, &overrides)
    }

    fn spawn(&self, program: &Path) -> std::io::Result<Child> {
        let mut command = command(program, &self.arguments());
        if let Some(bug) = &self.bug {
            command.env(BUG_VARIABLE, bug);
        }
        command.spawn()
    }

    /// Runs it with this program and waits for its end.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn run(&self, program: &Path) -> std::io::Result<Ended> {
        self.run_within(program, LONGEST)
    }

    /// The same; it hangs if it takes longer than this, real time.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn run_within(&self, program: &Path, longest: Duration) -> std::io::Result<Ended> {
        finish_within(self.spawn(program)?, longest)
    }
}

/// Starts a run in a process of its own.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn<A: AsRef<std::ffi::OsStr>>(program: &Path, arguments: &[A]) -> std::io::Result<Child> {
    command(program, arguments).spawn()
}

fn command<A: AsRef<std::ffi::OsStr>>(program: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child; one that hangs is ended. What it says is read meanwhile: a full pipe would hold it up for ever.
///
/// # Errors
/// When the operating system does not tell.
pub fn finish(child: Child) -> std::io::Result<Ended> {
    finish_within(child, LONGEST)
}

fn finish_within(mut child: Child, longest: Duration) -> std::io::Result<Ended> {
    let (said, complained) = (child.stdout.take().map(read), child.stderr.take().map(read));
    let text = |reader: Option<Reader>| reader.and_then(|it| it.join().ok()).unwrap_or_default();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > longest {
            child.kill()?;
            child.wait()?;
            return Ok(Ended { ok: false, text: format!("{HANGS}: no end within {longest:?}") });
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (said, complained) = (text(said), text(complained));
    if status.success() {
        let last = said.lines().last().unwrap_or_default().to_owned();
        return Ok(Ended { ok: true, text: last });
    }
    let text = complained.trim().to_owned();
    let text = if text.is_empty() { format!("ended with {status}") } else { text };
    Ok(Ended { ok: false, text })
}

type Reader = std::thread::JoinHandle<String>;

/// Reads a pipe to its end.
fn read(mut pipe: impl std::io::Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until then is told.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Each seed in two processes at a time: equal last lines, which hold the hash of the whole trace.
///
/// # Errors
/// A seed that does not repeat itself, or a program that cannot be started.
pub fn compare(program: &Path, orders: &[Order]) -> Result<(), String> {
    for order in orders {
        let run = || order.spawn(program).map_err(|error| error.to_string());
        let (one, other) = (run()?, run()?);
        let one = finish(one).map_err(|error| error.to_string())?;
        let other = finish(other).map_err(|error| error.to_string())?;
        if one != other {
            return Err(format!(
                "seed {} does not repeat itself:\n  {}\n  {}",
                order.seed, one.text, other.text
            ));
        }
        if !one.ok {
            return Err(one.text);
        }
    }
    Ok(())
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// Runs that ended well.
    pub passed: u64,
    /// What the others said.
    pub failed: Vec<(Order, String)>,
    /// Simulated time of those that ended well, ms.
    pub simulated_ms: u64,
    /// How often each point was reached.
    pub points: Vec<u64>,
}

/// Runs orders, some at a time, until they are done or the time is over.
///
/// # Errors
/// When the program cannot be started.
pub fn all(
    program: &Path,
    orders: impl Iterator<Item = Order>,
    jobs: usize,
    until: Option<Instant>,
) -> std::io::Result<Sum> {
    let mut sum = Sum { points: vec![0; points::NAMES.len()], ..Sum::default() };
    let mut running: Vec<(Order, Child)> = Vec::new();
    let mut orders = orders.take_while(|_| until.is_none_or(|until| Instant::now() < until));
    loop {
        while running.len() < jobs.max(1) {
            let Some(order) = orders.next() else { break };
            let child = order.spawn(program)?;
            running.push((order, child));
        }
        if running.is_empty() {
            return Ok(sum);
        }
        let (order, child) = running.remove(0);
        let ended = finish(child)?;
        if !ended.ok {
            sum.failed.push((order, ended.text));
            continue;
        }
        sum.passed += 1;
        sum.simulated_ms += simulated(&ended.text);
        if let Some((_, line)) = ended.text.split_once("points ") {
            points::add_line(&mut sum.points, line);
        }
    }
}

/// `simulated N ms` of a last line.
fn simulated(line: &str) -> u64 {
    let after = line.split_once("simulated ").map(|(_, after)| after);
    after.and_then(|after| after.split(' ').next()?.parse().ok()).unwrap_or_default()
}

/// Makes a failing order smaller: without each kind of fault, then shorter, then with fewer clients; whatever still
/// breaks the same promise is kept.
///
/// # Errors
/// When the program cannot be started, or the order does not fail.
pub fn shrink(program: &Path, order: Order) -> Result<(Order, String), String> {
    let run = |order: &Order| order.run(program).map_err(|error| error.to_string());
    // Steps are made shorter as seconds: a run of as many is the same run.
    let seconds = order.plan().length.as_secs().max(1);
    let order = Order { seconds, steps: None, ..order };
    let first = run(&order)?;
    if first.ok {
        return Err(format!("seed {} keeps all promises: there is nothing to shrink", order.seed));
    }
    let broken = promise(&first.text).to_owned();
    let (mut best, mut text) = (order, first.text);
    let mut keep = |best: &mut Order, candidate: Order| -> Result<bool, String> {
        let ended = run(&candidate)?;
        let same = !ended.ok && promise(&ended.text) == broken;
        if same {
            (*best, text) = (candidate, ended.text);
        }
        Ok(same)
    };
    let kinds = best.plan().kinds;
    let mut faults: Vec<String> = kinds.iter().map(|k| TABLE[*k].name.to_owned()).collect();
    for name in faults.clone() {
        let fewer: Vec<String> = faults.iter().filter(|known| **known != name).cloned().collect();
        let candidate = Order { faults: Some(fewer.clone()), ..best.clone() };
        if keep(&mut best, candidate)? {
            faults = fewer;
        }
    }
    while best.seconds > 7 {
        let seconds = (best.seconds * 3 / 4).max(7);
        let candidate = Order { seconds, ..best.clone() };
        if !keep(&mut best, candidate)? {
            break;
        }
    }
    while best.fewer < 8 {
        let candidate = Order { fewer: best.fewer * 2, ..best.clone() };
        if !keep(&mut best, candidate)? {
            break;
        }
    }
    Ok((best, text))
}

/// The promise that a failing run names first.
pub fn promise(text: &str) -> &str {
    let Some(line) = text.lines().find(|line| line.starts_with("  ")) else {
        // A panic while a node is taken down ends the whole process.
        return if text.starts_with(HANGS) { HANGS } else { "no task panics" };
    };
    let line = line.trim();
    line.split_once(": ").map_or(line, |(promise, _)| promise)
}

/// This program: a run needs a process of its own, because tokio numbers its tasks through the life of a process.
///
/// # Errors
/// When the operating system does not tell.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_is_what_stands_before_the_colon() {
        let text = "seed 3: BROKEN\n  who beats does not expire: x: y\nreproduce: z";
        assert_eq!(promise(text), "who beats does not expire");
        assert_eq!(promise("hangs: no end"), "hangs");
        assert_eq!(promise("thread caused non-unwinding panic. aborting."), "no task panics");
    }

    #[test]
    fn simulated_time_is_read_from_the_last_line() {
        assert_eq!(simulated("seed 1: ok, simulated 41000 ms, points 1=2"), 41_000);
    }
}
