//! The fast path and the full path give the same bytes, whatever is asked and however the catalogue changes.
//! `cargo run --release -p rollcall-dns --example differential` asks a million times and more.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod given;
mod mix;

use mix::{Round, Tally};

#[test]
fn both_paths_give_the_same_bytes() {
    let mut tally = Tally::default();
    for seed in 0..12 {
        tally.add(&Round::new(seed).run(1_500));
    }
    // It is compared at all, and of everything some.
    assert!(tally.fast * 2 > tally.queries, "{tally}");
    let parts = [tally.records, tally.no_data, tally.unknown, tally.refused, tally.truncated];
    for part in [&parts[..], &[tally.stale, tally.cookies, tally.tcp, tally.dropped]].concat() {
        assert!(part > 20, "{tally}");
    }
}
