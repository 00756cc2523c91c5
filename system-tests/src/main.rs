//! Tests of the built `rollcall` with programs that are not ours (resolvers, proxies), with network namespaces, or
//! with more connections than a unit test should open. `cargo test` never needs them; `.ci/run` calls this.
//!
//! `rollcall-system-tests dns|health|network|all|TEXT [--rollcall PATH] [--strict] [--rounds N] [--within SECONDS]`
//!
//! One line for each case: `ok`, `FAILED` or `skipped: why`; the last line is `N passed, N failed`. `--strict` counts a
//! skipped case as failed. Every case runs in a process group of its own, has a deadline, and leaves nothing running,
//! even where this program is killed.
#![forbid(unsafe_code)]

mod arguments;
mod backend;
mod case;
mod dns;
mod health;
mod metrics;
mod netns;
mod network;
mod program;
mod registry;
mod runner;
mod stage;

use std::process::ExitCode;

use arguments::{Arguments, Order};
use runner::Run;
use stage::Stage;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let Arguments { order, rollcall, strict, rounds, within } =
        match Arguments::read(std::env::args().skip(1)) {
            Ok(arguments) => arguments,
            Err(problem) => {
                eprintln!("{problem}\n{}", arguments::USAGE);
                return ExitCode::from(2);
            }
        };
    match order {
        Order::List => {
            for case in case::all() {
                println!("{}: {} (at most {:?})", case.topic, case.name, case.deadline);
            }
            ExitCode::SUCCESS
        }
        Order::Select(wanted) => runner::run(&wanted, &Run { rollcall, strict, rounds, within }),
        Order::Play { name, directory, mark } => {
            runner::play(&name, Stage::new(rollcall, directory, mark, rounds))
        }
        Order::Fleet(plan) => match health::fleet::play(&plan) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        },
    }
}
