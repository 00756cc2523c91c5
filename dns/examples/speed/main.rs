//! Measures answers a second and their latency, side by side with knot, dnsmasq and hickory's own server.
//!
//! `speed compare` starts every server on core 0 and the load on core 1, three times in turn, and prints tables.
//! `speed serve` and `speed load` are the two halves; each says how it is called.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![expect(clippy::disallowed_types, reason = "it measures real time")]

mod compare;
mod data;
mod load;
mod paths;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", how, port, services, changes] => serve::serve(how, port, services, changes),
        ["load", address, kind, services, window, rate, seconds] => {
            load::load(address, kind, services, window, rate, seconds)
                .map(|report| println!("{report}"))
        }
        ["paths", services] => paths::paths(services),
        ["compare", ref wanted @ ..] => compare::compare(wanted),
        _ => Err(format!(
            "speed {}\nspeed {}\nspeed {}\nspeed paths SERVICES",
            "serve fast|full|hickory PORT SERVICES CHANGES_A_SECOND",
            "load ADDRESS KIND SERVICES WINDOW RATE_OR_0 SECONDS",
            "compare [peak] [changes] [flood] [seconds=N] [kinds=a,srv,...] [servers=fast,knot,...]",
        )
        .into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
