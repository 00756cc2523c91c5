//! Runs each case in a process group of its own, so that a deadline ends the case and all that it started.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use crate::case::{self, Case, Checked, Need};
use crate::netns;
use crate::program;
use crate::stage::Stage;

/// What the process of a case writes before a figure that is worth showing.
pub(crate) const NOTE: &str = "note: ";
/// Beginning of all marks; the runner's process id follows.
const MARK: &str = "rc";
const LOOK: Duration = Duration::from_millis(20);
/// Cases of this topic run only when it is asked for.
const LONG: &str = "long";
/// Lines of each log that are shown when a case has failed.
const TAIL: usize = 30;

/// How cases are run.
pub(crate) struct Run {
    /// The binary under test.
    pub(crate) rollcall: PathBuf,
    /// A skipped case counts as failed.
    pub(crate) strict: bool,
    /// How often that which is measured is repeated.
    pub(crate) rounds: u32,
    /// What is not done by then has failed.
    pub(crate) within: Duration,
}

/// Runs the cases of a topic, all of them, or those whose names contain `wanted`.
#[expect(clippy::print_stdout, reason = "its report")]
pub(crate) fn run(wanted: &str, how: &Run) -> ExitCode {
    let Ok(rollcall) = how.rollcall.canonicalize() else {
        let path = how.rollcall.display();
        println!("{path} is not there: build it first, or give --rollcall PATH");
        return ExitCode::from(2);
    };
    raise_open_files();
    sweep_the_dead();
    let end = Instant::now() + how.within;
    let (mut passed, mut failed) = (0_u32, 0_u32);
    for (at, case) in case::all().filter(|case| fits(case, wanted)).enumerate() {
        let title = format!("{}: {}", case.topic, case.name);
        if let Some(why) = missing(case.needs) {
            println!("skipped {title}: {why}");
            failed += u32::from(how.strict);
            continue;
        }
        let begin = Instant::now();
        let left = end.saturating_duration_since(begin);
        let (ending, report) = one(case, &rollcall, at, how.rounds, left);
        let took = begin.elapsed().as_secs_f64();
        match ending {
            Ok(()) => {
                passed += 1;
                println!("ok      {title} ({took:.1} s)");
            }
            Err(why) => {
                failed += 1;
                println!("FAILED  {title} ({took:.1} s): {why}");
            }
        }
        report.iter().for_each(|line| println!("        {line}"));
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a case is meant by a word: `all`, a topic, or a part of a name.
fn fits(case: &Case, wanted: &str) -> bool {
    if wanted == "all" {
        return case.topic != LONG;
    }
    let is_topic = case::all().any(|case| case.topic == wanted);
    if is_topic { case.topic == wanted } else { case.name.contains(wanted) }
}

/// Is the process of one case. The notes and the reason go to standard output, which the runner keeps.
#[expect(clippy::print_stdout, reason = "read by the runner")]
pub(crate) fn play(name: &str, mut stage: Stage) -> ExitCode {
    let Some(case) = case::all().find(|case| case.name == name) else {
        println!("no case is called {name}");
        return ExitCode::from(2);
    };
    end_with(rustix::process::getppid());
    match (case.play)(&mut stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Ends this process and all that it has started as soon as its parent is another one: the runner was killed.
fn end_with(parent: Option<Pid>) {
    thread::spawn(move || {
        while rustix::process::getppid() == parent {
            sleep(LOOK);
        }
        let _ = kill_process_group(rustix::process::getpgrp(), Signal::KILL);
    });
}

/// Removes the namespaces that runs which were killed have left.
fn sweep_the_dead() {
    for mark in netns::marks() {
        let number = mark.strip_prefix(MARK).and_then(|rest| rest.split('-').next());
        let Some(number) = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        if !Path::new("/proc").join(number).exists() {
            let _ = netns::sweep(&format!("{MARK}{number}-"));
        }
    }
}

/// How a case ended, and what is worth showing of it.
fn one(
    case: &Case,
    rollcall: &Path,
    at: usize,
    rounds: u32,
    left: Duration,
) -> (Result<(), String>, Vec<String>) {
    if left.is_zero() {
        return (Err("no time is left, see --within".to_owned()), Vec::new());
    }
    let mark = format!("{MARK}{}-{at}-", std::process::id());
    let directory = match tempfile::Builder::new().prefix(&mark).tempdir() {
        Ok(directory) => directory,
        Err(error) => return (Err(format!("make a temporary directory: {error}")), Vec::new()),
    };
    let said = directory.path().join("case.out");
    let path = directory.path().to_owned();
    let stage = Stage::new(rollcall.to_owned(), path, mark.clone(), rounds);
    // A deadline is meant for the rounds that nobody has asked for.
    let limit = (case.deadline * (rounds / 3).max(1)).min(left);
    let ended = watch(case, &stage, &said, limit);
    let swept = netns::sweep(&mark);
    let text = fs::read_to_string(&said).unwrap_or_default();
    let notes = text.lines().filter_map(|line| line.strip_prefix(NOTE)).map(str::to_owned);
    let mut report: Vec<String> = notes.collect();
    let ending = match ended {
        Ok(Some(status)) if status.success() => swept.map_err(|error| error.to_string()),
        Ok(Some(_)) => {
            let words = text.lines().filter(|line| !line.starts_with(NOTE));
            Err(words.collect::<Vec<_>>().join("\n"))
        }
        Ok(None) => Err(format!("not within {limit:?}")),
        Err(error) => Err(format!("run the case: {error}")),
    };
    if ending.is_err() {
        report.extend(logs(directory.path()));
    }
    (ending, report)
}

/// Waits for a case; `None`: it was ended at its deadline. What it started is ended in any case.
fn watch(case: &Case, stage: &Stage, said: &Path, limit: Duration) -> Checked<Option<ExitStatus>> {
    let said = File::create(said)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["play", case.name])
        .arg(&stage.directory)
        .arg(&stage.mark)
        .arg("--rollcall")
        .arg(&stage.rollcall)
        .args(["--rounds", &stage.rounds.to_string()])
        .current_dir(&stage.directory)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() >= deadline => break None,
            None => sleep(LOOK),
        }
    };
    // Its group outlives it as long as something that it started does.
    if let Some(group) = Pid::from_raw(i32::try_from(child.id())?) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    Ok(status)
}

/// The ends of all logs of a case.
fn logs(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let all: Vec<&str> = text.lines().collect();
        lines.push(format!("--- {}", path.file_name().unwrap_or_default().to_string_lossy()));
        lines.extend(all[all.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()));
    }
    lines
}

fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Program(name) => {
            program::find(name).is_none().then(|| format!("{name} is not installed"))
        }
        Need::Root => {
            (!rustix::process::geteuid().is_root()).then(|| "it needs to be root".to_owned())
        }
        Need::Files(count) => {
            let limit = getrlimit(Resource::Nofile).current;
            let few = limit.is_some_and(|limit| limit < *count);
            few.then(|| format!("it needs {count} open files, {limit:?} are allowed"))
        }
        Need::Python(module) => program::python_with(module)
            .is_none()
            .then(|| format!("no python3 has the module {module}")),
    })
}

/// Programs under test are given all open files that this user may have.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{Write, stderr};

    use super::*;

    const ENDLESS: Case = Case {
        topic: "tests",
        name: "it never ends",
        deadline: Duration::from_secs(1),
        needs: &[],
        play: |_| Ok(()),
    };

    #[test]
    fn what_only_the_gate_runs_is_named() {
        // Straight to the stream: what a passing test prints is thrown away.
        let mut text = "left out here, run by .ci/run:\n".to_owned();
        for case in case::all() {
            text.push_str(&format!("  {}: {}\n", case.topic, case.name));
        }
        stderr().write_all(text.as_bytes()).unwrap();
        let names: BTreeSet<&str> = case::all().map(|case| case.name).collect();
        assert_eq!(names.len(), case::all().count(), "two cases bear one name");
    }

    #[test]
    fn a_topic_means_its_own_cases_only() {
        let of = |wanted: &'static str| case::all().filter(move |case| fits(case, wanted));
        assert!(of("network").count() > 0);
        assert!(of("network").all(|case| case.topic == "network"));
        assert!(of("all").all(|case| case.topic != LONG));
        assert_eq!(of("20,000 instances").count(), 1);
    }

    #[test]
    fn a_case_for_which_no_time_is_left_has_failed() {
        let (ending, _) = one(&ENDLESS, Path::new("/bin/true"), 0, 3, Duration::ZERO);
        assert!(ending.unwrap_err().contains("--within"));
    }
}
