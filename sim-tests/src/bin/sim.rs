//! The command line of the simulation: `sim help` lists what it does. Each seed runs in a process of its own.

use rollcall_sim_tests::{
    faults::TABLE,
    plan::Plan,
    planted, points, run, scenarios,
    swarm::{self, Order},
    trace::{DEFAULT_FILTER, Trace},
};
use std::{fs::File, io::Write, process::ExitCode, time::Duration};
use tokio::time::Instant;

/// Simulated seconds with faults, unless told otherwise.
const SECONDS: u64 = 30;

const HELP: &str = "\
sim run --seed N [--seconds S | --steps S] [--faults a,b] [--fewer K] [--trace [FILE]] [--filter F]   one seed
sim determinism [--from N] [--count C] [--seconds S]                  each seed twice: equal traces
sim swarm [--from N] [--seeds C] [--minutes M] [--seconds S] [--jobs J] [--all-points]
sim shrink --seed N [--seconds S]                                     a smaller run that breaks the same promise
sim regressions                                                       seeds that have failed once
sim scenario NAME [--seed N] [--trace]                                faults set by hand; without NAME: the list
sim scenarios [--seed N]                                              all of them, each in a process of its own
sim planted [--bug A,B] [--runs R] [--limit SECONDS] [--jobs J]        bugs that the suite must find";

/// Every option there is.
const OPTIONS: &[&str] = &[
    "--all-points",
    "--bug",
    "--count",
    "--faults",
    "--fewer",
    "--filter",
    "--from",
    "--jobs",
    "--limit",
    "--minutes",
    "--runs",
    "--seconds",
    "--seed",
    "--seeds",
    "--steps",
    "--trace",
];

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let arguments = Arguments(std::env::args().skip(1).collect());
    if let Err(error) = arguments.check() {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    let done = match arguments.0.first().map(String::as_str) {
        Some("run") => one(&arguments),
        Some("determinism") => determinism(&arguments),
        Some("swarm") => seeds(&arguments),
        Some("shrink") => shrink(&arguments),
        Some("regressions") => regressions(),
        Some("scenario") => scenario(&arguments),
        Some("scenarios") => all_scenarios(&arguments),
        Some("planted") => bugs(&arguments),
        Some("help") => Ok(HELP.to_owned()),
        _ => {
            eprintln!("{HELP}");
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

struct Arguments(Vec<String>);

impl Arguments {
    /// Refuses options that there are not.
    fn check(&self) -> Result<(), Failure> {
        let unknown = |argument: &&String| {
            argument.starts_with("--") && !OPTIONS.contains(&argument.as_str())
        };
        match self.0.iter().find(unknown) {
            None => Ok(()),
            Some(argument) => Err(format!("{argument}: no such option\n{HELP}").into()),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(at) = self.0.iter().position(|argument| argument == name) else {
            return Ok(None);
        };
        let value = self.0.get(at + 1).ok_or_else(|| format!("{name} needs a value"))?;
        Ok(Some(value))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        text.parse().map_err(|_| format!("{name} {text}: not a number").into())
    }

    /// Where the trace goes: standard output, or the file that is named.
    fn trace(&self) -> Result<Option<Box<dyn Write + Send>>, Failure> {
        let Some(at) = self.0.iter().position(|argument| argument == "--trace") else {
            return Ok(None);
        };
        let Some(path) = self.0.get(at + 1).filter(|next| !next.starts_with("--")) else {
            return Ok(Some(Box::new(std::io::stdout())));
        };
        let file = File::create(path).map_err(|error| format!("--trace {path}: {error}"))?;
        Ok(Some(Box::new(file)))
    }

    fn order(&self) -> Result<Order, Failure> {
        let mut order = Order::new(self.number("--seed", 1)?, self.number("--seconds", SECONDS)?);
        order.steps = match self.number("--steps", 0)? {
            0 => None,
            steps => Some(u32::try_from(steps)?),
        };
        order.fewer = usize::try_from(self.number("--fewer", 1)?)?;
        let faults = self.text("--faults")?;
        order.faults = faults.map(|names| names.split(',').map(str::to_owned).collect());
        for name in order.faults.iter().flatten() {
            if !TABLE.iter().any(|kind| kind.name == name) {
                let known: Vec<_> = TABLE.iter().map(|kind| kind.name).collect();
                return Err(format!("--faults {name}: the faults are {}", known.join(", ")).into());
            }
        }
        Ok(order)
    }

    /// `count` runs from a seed on.
    fn orders(&self, count: &str, default: u64, from: u64) -> Result<Vec<Order>, Failure> {
        let (from, count) = (self.number("--from", from)?, self.number(count, default)?);
        let seconds = self.number("--seconds", SECONDS)?;
        Ok((from..from.saturating_add(count)).map(|seed| Order::new(seed, seconds)).collect())
    }
}

fn one(arguments: &Arguments) -> Result<String, Failure> {
    let order = arguments.order()?;
    report(&order.plan(), &order.command(), arguments)
}

fn report(plan: &Plan, command: &str, arguments: &Arguments) -> Result<String, Failure> {
    let filter = arguments.text("--filter")?.unwrap_or(DEFAULT_FILTER);
    let trace = Trace::begin(filter, arguments.trace()?);
    let report = run::run(plan, &trace)?;
    let (lines, hash) = trace.summary();
    let seed = plan.seed;
    if report.violations.is_empty() {
        return Ok(format!(
            "seed {seed}: ok, revision {}, state {:032x}, {} writes, {lines} lines, trace {hash:016x}, simulated {} ms, points {}",
            report.revision,
            report.hash,
            report.writes,
            report.simulated.as_millis(),
            report.points
        ));
    }
    let mut text = format!("seed {seed}: BROKEN at {:?}\n", report.simulated);
    for violation in report.violations.iter().take(8) {
        text += &format!("  {}: {}\n", violation.invariant, violation.seen);
    }
    text += &format!("reproduce: {command}");
    Err(text.into())
}

fn determinism(arguments: &Arguments) -> Result<String, Failure> {
    let orders = arguments.orders("--count", 20, 1)?;
    swarm::compare(&swarm::this_program()?, &orders)?;
    Ok(format!("{} seeds, each twice: equal traces", orders.len()))
}

fn seeds(arguments: &Arguments) -> Result<String, Failure> {
    let minutes = arguments.number("--minutes", 0)?;
    let most = if minutes > 0 { u64::MAX >> 1 } else { 50 };
    let (from, count) = (arguments.number("--from", 100)?, arguments.number("--seeds", most)?);
    let seconds = arguments.number("--seconds", SECONDS)?;
    let orders = (from..from.saturating_add(count)).map(|seed| Order::new(seed, seconds));
    let jobs = usize::try_from(arguments.number("--jobs", 1)?)?;
    let begin = Instant::now();
    let until = (minutes > 0).then(|| begin + Duration::from_secs(minutes * 60));
    let sum = swarm::all(&swarm::this_program()?, orders, jobs, until)?;
    summary(&sum, begin.elapsed(), arguments.has("--all-points"))
}

fn summary(sum: &swarm::Sum, took: Duration, all_points: bool) -> Result<String, Failure> {
    let hours = Duration::from_millis(sum.simulated_ms).as_secs_f64() / 3_600.0;
    let ratio = Duration::from_millis(sum.simulated_ms).as_secs_f64() / took.as_secs_f64();
    let mut text = String::new();
    for (name, count) in points::NAMES.iter().zip(&sum.points) {
        text += &format!("{count:>8}  {name}\n");
    }
    text += &format!(
        "{} seeds kept all promises, {} did not: {hours:.2} simulated hours in {:.0} s ({ratio:.0} to 1)",
        sum.passed,
        sum.failed.len(),
        took.as_secs_f64()
    );
    for (_, failure) in &sum.failed {
        text += &format!("\n{failure}");
    }
    let never = points::NAMES.iter().zip(&sum.points).filter(|(_, count)| **count == 0);
    let never = never.map(|(name, _)| *name).filter(|name| !points::MAY_BE_NEVER.contains(name));
    let never: Vec<_> = never.collect();
    if all_points && !never.is_empty() {
        text += &format!("\nnever reached: {}", never.join("; "));
    }
    if sum.failed.is_empty() && (never.is_empty() || !all_points) {
        return Ok(text);
    }
    Err(text.into())
}

fn shrink(arguments: &Arguments) -> Result<String, Failure> {
    let (order, text) = swarm::shrink(&swarm::this_program()?, arguments.order()?)?;
    Ok(format!("{text}\nsmallest: {}", order.command()))
}

/// Seeds that have failed once, each with the seconds it needs and its faults: `seed seconds faults # what it was`.
fn regressions() -> Result<String, Failure> {
    let list = include_str!("../../regressions.txt");
    let mut orders = Vec::new();
    for line in list.lines() {
        let words = line.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        let [seed, seconds, faults] = words.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{line}: a seed, seconds and faults").into());
        };
        let mut order = Order::new(seed.parse()?, seconds.parse()?);
        order.faults = Some(faults.split(',').map(str::to_owned).collect());
        orders.push(order);
    }
    let begin = Instant::now();
    let sum = swarm::all(&swarm::this_program()?, orders.into_iter(), 1, None)?;
    if sum.failed.is_empty() {
        return Ok(format!("{} regressions: all well, in {:.0?}", sum.passed, begin.elapsed()));
    }
    let texts: Vec<_> = sum.failed.into_iter().map(|(_, text)| text).collect();
    Err(texts.join("\n").into())
}

fn scenario(arguments: &Arguments) -> Result<String, Failure> {
    let name = arguments.0.get(1).map_or("", String::as_str);
    let seed = arguments.number("--seed", 1)?;
    let Some(plan) = scenarios::plan(name, seed) else {
        let known = scenarios::SCENARIOS.iter();
        let known: Vec<_> =
            known.map(|known| format!("{:<14} {}", known.name, known.what)).collect();
        let list = known.join("\n");
        return match name {
            "" => Ok(list),
            _ => Err(format!("scenario {name}: there is none; the scenarios are\n{list}").into()),
        };
    };
    let command = format!(
        "cargo run --release -p rollcall-sim-tests --bin sim -- scenario {name} --seed {seed} --trace"
    );
    report(&plan, &command, arguments)
}

fn all_scenarios(arguments: &Arguments) -> Result<String, Failure> {
    let (seed, program) = (arguments.number("--seed", 1)?.to_string(), swarm::this_program()?);
    let (mut lines, mut broken) = (Vec::new(), false);
    for scenarios::Scenario { name, what, .. } in scenarios::SCENARIOS {
        let ended = swarm::finish(swarm::spawn(&program, &["scenario", name, "--seed", &seed])?)?;
        broken |= !ended.ok;
        lines.push(if ended.ok {
            format!("{name}: ok ({what})")
        } else {
            format!("{name}: {}", ended.text)
        });
    }
    let text = lines.join("\n");
    if broken { Err(text.into()) } else { Ok(text) }
}

fn bugs(arguments: &Arguments) -> Result<String, Failure> {
    let effort = planted::Effort {
        runs: arguments.number("--runs", 5)?,
        seconds: arguments.number("--seconds", SECONDS)?,
        limit: Duration::from_secs(arguments.number("--limit", 300)?),
        jobs: usize::try_from(arguments.number("--jobs", 1)?)?,
    };
    planted::table(arguments.text("--bug")?, effort)
}
