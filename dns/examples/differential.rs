//! Compares the fast path with the full path, and a good share of the replies with what hickory makes of them:
//! `differential [queries] [first seed]`, a million by default. It ends at the first difference and shows both replies.
#![expect(clippy::print_stdout, reason = "it is a program")]

#[path = "../tests/given/mod.rs"]
mod given;
#[path = "../tests/hickory/mod.rs"]
mod hickory;
#[path = "../tests/mix/mod.rs"]
mod mix;

use mix::{Round, Tally};

/// Queries about one catalogue.
const ROUND: u64 = 5_000;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let wanted = arguments.next().unwrap_or(1_000_000);
    let first = arguments.next().unwrap_or(1_000);
    let mut tally = Tally::default();
    for seed in first.. {
        if tally.queries >= wanted {
            break;
        }
        tally.add(&Round::new(seed).run(ROUND));
    }
    println!("no difference: {tally}");
}
