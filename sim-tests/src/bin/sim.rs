//! Runs seeds, one process each, and checks that a seed repeats itself.
//!
//! `sim run --seed 7 [--scenario day|cut-off] [--seconds 60] [--trace]` · `sim determinism [--from 1] [--count 20]` · `sim seeds [--from 1] [--count 50]`

use rollcall_sim_tests::{
    cut_off, scenario,
    trace::{DEFAULT_FILTER, Trace},
};
use std::{
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

const SECONDS: u64 = 60;

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("run") => run(&arguments),
        Some("determinism") => determinism(&arguments),
        Some("seeds") => seeds(&arguments),
        _ => {
            eprintln!(
                "usage: sim run --seed N [--scenario day|cut-off] [--seconds S] [--trace] | determinism | seeds [--from N] [--count N]"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(arguments: &[String], name: &str, default: u64) -> Result<u64, Failure> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else {
        return Ok(default);
    };
    let text = arguments.get(at + 1).ok_or_else(|| format!("{name} needs a number"))?;
    text.parse().map_err(|_| format!("{name} {text}: not a number").into())
}

fn word<'a>(arguments: &'a [String], name: &str, default: &'a str) -> Result<&'a str, Failure> {
    match arguments.iter().position(|argument| argument == name) {
        None => Ok(default),
        Some(at) => Ok(arguments.get(at + 1).ok_or_else(|| format!("{name} needs a word"))?),
    }
}

fn run(arguments: &[String]) -> Result<String, Failure> {
    let (seed, seconds) =
        (number(arguments, "--seed", 1)?, number(arguments, "--seconds", SECONDS)?);
    let print = arguments.iter().any(|argument| argument == "--trace");
    let trace = Trace::begin(DEFAULT_FILTER, print);
    let scenario = word(arguments, "--scenario", "day")?;
    let report = match scenario {
        "day" => scenario::run(seed, Duration::from_secs(seconds), &trace)?,
        "cut-off" => cut_off::run(seed, &trace)?,
        other => return Err(format!("--scenario {other}: day and cut-off are known").into()),
    };
    let (lines, hash) = trace.summary();
    if report.violations.is_empty() {
        let (revision, state) = (report.revision, report.hash);
        let (lookups, stale) = report.lookups;
        return Ok(format!(
            "seed {seed}: ok, revision {revision}, state {state:032x}, {lookups} lookups ({stale} stale), {lines} lines, trace {hash:016x}"
        ));
    }
    let mut text = format!("seed {seed}: BROKEN\n");
    for violation in &report.violations {
        text += &format!("  {}: {}\n", violation.invariant, violation.seen);
    }
    text += &format!(
        "reproduce: cargo run --release -p rollcall-sim-tests --bin sim -- run --scenario {scenario} --seed {seed} --seconds {seconds} --trace"
    );
    Err(text.into())
}

/// One seed in a process of its own: its last line.
fn child(seed: u64, seconds: u64) -> Result<String, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(["run", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

fn determinism(arguments: &[String]) -> Result<String, Failure> {
    let (from, count) = (number(arguments, "--from", 1)?, number(arguments, "--count", 20)?);
    let seconds = number(arguments, "--seconds", 20)?;
    let mut passed = 0;
    for seed in from..from + count {
        let (one, other) = (child(seed, seconds)?, child(seed, seconds)?);
        if one != other {
            return Err(format!("seed {seed} does not repeat itself:\n  {one}\n  {other}").into());
        }
        passed += 1;
    }
    Ok(format!("{passed} seeds, each twice: equal traces"))
}

fn seeds(arguments: &[String]) -> Result<String, Failure> {
    let (from, count) = (number(arguments, "--from", 1)?, number(arguments, "--count", 50)?);
    let seconds = number(arguments, "--seconds", SECONDS)?;
    let mut failed = Vec::new();
    for seed in from..from + count {
        if let Err(error) = child(seed, seconds) {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() {
        return Ok(format!("{count} seeds of {seconds} simulated seconds: all well"));
    }
    Err(failed.join("\n").into())
}
