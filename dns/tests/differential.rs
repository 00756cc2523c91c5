//! The fast path and the full path give the same bytes, whatever is asked and however the catalogue changes; hickory reads
//! these queries as we do, and encodes our replies to the same. What a reply should say is judged by `oracle.rs`.
//! `cargo run --release -p rollcall-dns --example differential` asks a million times and more.

mod given;
mod hickory;
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
    assert!(tally.hickory * 5 > tally.queries, "{tally}");
    let parts = [tally.records, tally.no_data, tally.unknown, tally.refused, tally.truncated];
    let more = [tally.stale, tally.cookies, tally.tcp, tally.limited, tally.slipped, tally.dropped];
    for part in parts.into_iter().chain(more) {
        assert!(part > 20, "{tally}");
    }
}
