//! The workloads, one file each, and what they share.

pub(crate) mod check;
pub(crate) mod dns;
pub(crate) mod evict;
pub(crate) mod failover;
pub(crate) mod heartbeat;
pub(crate) mod register;
pub(crate) mod resolve;
pub(crate) mod scale;
pub(crate) mod watch;

use crate::{
    load::Window,
    outcome::{Outcome, told},
    report::Report,
    servers::{Lab, Size},
};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::{error::Error, time::Duration};

/// A lease that does not run out during a measurement.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);

/// A run of the comparison.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    pub(crate) report: Report,
    pub(crate) quick: bool,
    pub(crate) repeats: usize,
    bar: ProgressBar,
    /// What is being done.
    step: String,
    /// What failed so far.
    problems: Vec<String>,
}

/// With so many failures it is no bad moment of a busy machine.
const PROBLEMS: usize = 5;

impl Bench {
    pub(crate) fn new(lab: Lab, quick: bool, repeats: usize) -> Self {
        let bar = ProgressBar::no_length();
        // No thread that draws: it would share the core of the load.
        if let Ok(style) =
            ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}")
        {
            bar.set_style(style);
        }
        let (report, step, problems) = (Report::default(), String::new(), Vec::new());
        Self { lab, report, quick, repeats, bar, step, problems }
    }

    /// Of two values the one that fits.
    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn window(&self) -> Window {
        let (warm_up, length) = self.pick((300, 700), (700, 2_000));
        Window { warm_up: Duration::from_millis(warm_up), length: Duration::from_millis(length) }
    }

    /// So many further steps.
    pub(crate) fn steps(&self, count: usize) {
        self.bar.set_position(0);
        self.bar.set_length(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// A step begins.
    pub(crate) fn step(&mut self, what: &str) {
        what.clone_into(&mut self.step);
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
        self.bar.tick();
    }

    /// Keeps in mind what failed in the current step, and goes on with the next: a run is long, and what was measured
    /// stays true. Fails where too much has failed.
    pub(crate) fn survive(&mut self, outcome: Outcome) -> Outcome {
        let Err(problem) = outcome else { return Ok(()) };
        self.failed(&*problem);
        if self.problems.len() < PROBLEMS { Ok(()) } else { Err("too much has failed".into()) }
    }

    /// Something ended with a problem in the current step.
    pub(crate) fn failed(&mut self, problem: &(dyn Error + 'static)) {
        let text = format!("{}: {}", self.step, told(problem));
        self.say(&format!("failed: {text}"));
        self.report.note(&format!("failed, and not counted: {text}"));
        self.problems.push(text);
    }

    /// A line for who waits.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// All that failed, in a line each.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Where the load runs from here on: beside one server it has core 1, beside three it shares all.
pub(crate) fn place_load(size: Size) -> Outcome {
    let mut cores = CpuSet::new();
    match size {
        Size::One => cores.set(1),
        Size::Three => (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core)),
    }
    sched_setaffinity(None, &cores)
        .map_err(|error| format!("put the load on core 1: {error}; two cores are needed").into())
}
