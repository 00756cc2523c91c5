//! What was found: a table in Markdown, and the aims.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report of a tool")]

use super::{load::Tally, outage::Found, scenario::Fault, way::Way};
use std::{cell::Cell, collections::BTreeMap, error::Error, time::Duration};

/// Rows so far.
pub(crate) struct Report {
    rows: BTreeMap<(Fault, Way), Tally>,
    outage: Option<(Tally, bool)>,
}

/// One line for whoever started this process.
pub(crate) fn tell(line: &str) {
    println!("{line}");
}

pub(crate) fn complain(problem: &dyn Error) {
    eprintln!("error: {problem}");
}

impl Report {
    pub(crate) fn new(seconds: u64, callers: usize) -> Self {
        println!("Three backends of 2 ms, {callers} callers in a closed loop, {seconds} s each.\n");
        println!("| scenario | calls by | calls | errors | error share | p50 | p99 | calls/s |");
        println!("|---|---|---|---|---|---|---|---|");
        Self { rows: BTreeMap::new(), outage: None }
    }

    pub(crate) fn row(&mut self, fault: Fault, way: Way, tally: Tally) {
        print_row(fault.name(), way.name(), &tally);
        self.rows.insert((fault, way), tally);
    }

    pub(crate) fn outage(&mut self, length: Duration, tally: Tally, found: &Found, listed: usize) {
        let name = format!("registry gone {} s", length.as_secs());
        print_row(&name, Way::Once.name(), &tally);
        println!(
            "\nA fresh process, started amid: {} calls, {} failed, the first answer after {} ms. Listed when the \
             registry was back: {listed} of 3.",
            found.calls, found.failed, found.first_ms
        );
        let good = tally.errors == 0 && found.failed == 0 && found.calls > 0 && listed == 3;
        self.outage = Some((tally, good));
    }

    /// The aims of issue 5, as far as their scenarios were run; then the errors by kind. Returns how many were missed.
    pub(crate) fn aims(&self) -> usize {
        println!();
        let missed = Cell::new(0);
        let aim = |met: bool, text: &str| {
            missed.set(missed.get() + usize::from(!met));
            println!("- {}: {text}", if met { "aim met" } else { "aim MISSED" });
        };
        let below = |fault, way, most: f64, text: &str| {
            if let Some(tally) = self.rows.get(&(fault, way)) {
                aim(tally.percent() <= most, &format!("{text}: {:.3} %", tally.percent()));
            }
        };
        below(Fault::Kill, Way::Once, 0.1, "kill -9, retries off: errors at most 0.1 %");
        below(Fault::Kill, Way::Safe, 0.0, "kill -9, safe retries: no errors");
        let restart = "rolling restart with drain: no errors";
        below(Fault::RollingRestart, Way::Once, 0.0, restart);
        below(Fault::RollingRestart, Way::Safe, 0.0, &format!("{restart}, safe retries"));
        for way in [Way::Once, Way::Safe] {
            let (fast, slow) = (Fault::AllFast, Fault::Slow);
            if let (Some(fast), Some(slow)) =
                (self.rows.get(&(fast, way)), self.rows.get(&(slow, way)))
            {
                let (fast, slow) = (fast.quantile(0.99), slow.quantile(0.99));
                let text = format!(
                    "one slow of three, {}: p99 at most twice that of all fast: {slow:.1} ms of \
                     {fast:.1} ms",
                    way.name()
                );
                aim(slow <= 2.0 * fast, &text);
            }
        }
        if let Some((_, good)) = &self.outage {
            aim(*good, "registry gone: no failed call, a fresh process starts from its copy");
        }
        for ((fault, way), tally) in self.rows.iter().filter(|(_, tally)| tally.errors > 0) {
            println!("\n{}, {}:", fault.name(), way.name());
            for (kind, count) in &tally.kinds {
                println!("- {count} x {kind}");
            }
        }
        missed.get()
    }
}

fn print_row(scenario: &str, way: &str, tally: &Tally) {
    println!(
        "| {scenario} | {way} | {} | {} | {:.3} % | {:.1} ms | {:.1} ms | {:.0} |",
        tally.calls(),
        tally.errors,
        tally.percent(),
        tally.quantile(0.5),
        tally.quantile(0.99),
        tally.per_second()
    );
}
