//! A seed repeats itself, in two processes; and the simulation is not empty.

use std::process::Command;

fn run(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["run", "--seconds", "8", "--seed", &seed.to_string()])
        .output()
        .expect("the simulation starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_seed_gives_the_same_trace_in_two_processes_and_another_seed_another() {
    let (one, again, other) = (run(3), run(3), run(4));
    assert_eq!(one, again);
    let trace = |line: &str| line.rsplit_once("trace ").map(|(_, hash)| hash.to_owned());
    assert!(trace(&one).is_some());
    assert_ne!(trace(&one), trace(&other));
}
