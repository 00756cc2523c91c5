//! A checker that is cut off from its targets, seed by seed, each in two processes.

use std::process::Command;

fn run(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["scenario", "cut-off", "--seed", &seed.to_string()])
        .output()
        .expect("the simulation starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn nothing_that_lives_goes_and_what_is_dead_goes() {
    for seed in 1..=3 {
        assert_eq!(run(seed), run(seed), "seed {seed} does not repeat itself");
    }
}
