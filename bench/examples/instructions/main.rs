//! Counts the instructions of what is done most often, under callgrind, and holds them against a baseline.
//!
//! `instructions check` fails where one has grown by more than the tolerance, and says so where one has shrunk by as
//! much; `instructions update` writes the baseline anew. Times are never taken: a busy machine changes nothing.
//! The count of one operation is the difference of two runs that differ in nothing but how often it is done.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod operations;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
/// Instructions of one operation, by name.
type Counts = BTreeMap<String, u64>;

/// Growth that is taken for chance, in percent: hash seeds and the order of allocations.
const TOLERANCE: u64 = 5;
const FEW: u64 = 500;
const MANY: u64 = 2_500;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => check(),
        ["update"] => update(),
        ["run", name, times] => {
            times.parse().map_err(Into::into).and_then(|t| operations::run(name, t))
        }
        _ => Err("instructions check | update".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

fn update() -> Outcome {
    let counts = count_all()?;
    fs::write(baseline(), serde_json::to_string_pretty(&counts)? + "\n")?;
    for (name, count) in counts {
        println!("{name}: {count}");
    }
    Ok(())
}

fn check() -> Outcome {
    let file = baseline();
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let known: Counts = serde_json::from_str(&text)?;
    let mut grown = Vec::new();
    for (name, count) in count_all()? {
        let Some(known) = known.get(&name).copied() else {
            grown.push(format!("{name}: no baseline; `instructions update` writes it"));
            continue;
        };
        println!("{name}: {count} instructions, baseline {known}");
        if count > known + known * TOLERANCE / 100 {
            grown
                .push(format!("{name}: {count} instructions, more than {known} and {TOLERANCE} %"));
        } else if count < known - known * TOLERANCE / 100 {
            println!("{name} has become cheaper: `instructions update` keeps it so");
        }
    }
    if grown.is_empty() { Ok(()) } else { Err(grown.join("\n").into()) }
}

fn count_all() -> Outcome<Counts> {
    let directory = tempfile::tempdir()?;
    let mut counts = Counts::new();
    for name in operations::NAMES {
        let few = count(directory.path(), name, FEW)?;
        let many = count(directory.path(), name, MANY)?;
        counts.insert(name.to_owned(), many.saturating_sub(few) / (MANY - FEW));
    }
    Ok(counts)
}

/// Instructions of a whole run.
fn count(directory: &Path, name: &str, times: u64) -> Outcome<u64> {
    let file = directory.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(std::env::current_exe()?).args(["run", name, &times.to_string()]);
    let output = command.output().map_err(|error| {
        format!("valgrind: {error}; on Debian: apt-get install --no-install-recommends valgrind")
    })?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = fs::read_to_string(file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("summary: "));
    Ok(total.ok_or("callgrind wrote no summary")?.trim().parse()?)
}
