//! What an experiment found: tables in Markdown, promises kept or broken.
#![expect(clippy::print_stdout, reason = "the report of a tool")]

use std::{error::Error, process::ExitCode, time::Duration};

/// What can go wrong here is told, never handled.
pub(crate) type Problem = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Problem>;

/// Collects the promises that were broken.
#[derive(Default)]
pub(crate) struct Report {
    broken: usize,
}

impl Report {
    /// One line about what goes on.
    pub(crate) fn note(&self, text: &str) {
        println!("{text}");
    }

    /// A promise: kept or broken.
    pub(crate) fn promise(&mut self, kept: bool, text: &str) {
        self.broken += usize::from(!kept);
        println!("- {}: {text}", if kept { "kept" } else { "BROKEN" });
    }

    /// An aim: missing it is told and breaks nothing.
    pub(crate) fn aim(&self, met: bool, text: &str) {
        println!("- {}: {text}", if met { "aim met" } else { "aim MISSED" });
    }

    /// Rows of a measurement: name and value.
    pub(crate) fn table(&self, title: &str, rows: &[(&str, String)]) {
        println!("\n### {title}\n\n| | |\n|---|---|");
        for (name, value) in rows {
            println!("| {name} | {value} |");
        }
        println!();
    }

    /// The exit code.
    pub(crate) fn finish(&self, outcome: Outcome) -> ExitCode {
        match outcome {
            Err(error) => {
                println!("\nFAILED: {error}");
                ExitCode::from(2)
            }
            Ok(()) if self.broken > 0 => {
                println!("\n{} promises were broken", self.broken);
                ExitCode::FAILURE
            }
            Ok(()) => {
                println!("\nall promises were kept");
                ExitCode::SUCCESS
            }
        }
    }
}

/// Smallest, middle and largest of some times.
pub(crate) struct Spread {
    pub(crate) min: Duration,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) count: usize,
}

impl Spread {
    /// Of no times: zero everywhere.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        Self {
            min: at(0),
            median: at(times.len() / 2),
            p99: at((times.len() * 99 / 100).min(times.len().saturating_sub(1))),
            max: at(times.len().saturating_sub(1)),
            count: times.len(),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "min {:.1} ms, median {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} values)",
            ms(self.min),
            ms(self.median),
            ms(self.p99),
            ms(self.max),
            self.count
        )
    }
}

/// A number of things in a time, a second.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = count as f64 / time.as_secs_f64();
    format!("{rate:.0}/s")
}
