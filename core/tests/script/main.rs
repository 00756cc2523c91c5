//! Readable transcripts of what the state does, after etcd-raft's interaction tests: `tests/scripts/*.txt`.
//!
//! A block is one or more commands, a line `----`, and what came out, up to an empty line. Lines with `#` are prose.
//! `UPDATE=1 cargo test -p rollcall-core --test script` writes what comes out now; the diff is then reviewed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod commands;
mod words;

use std::{fs, path::PathBuf};

#[test]
fn every_script_comes_out_as_written() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in scripts() {
        let written = fs::read_to_string(&path).unwrap();
        let replayed = replay(&written);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, replayed).unwrap();
        } else if let Some(difference) = difference(&written, &replayed) {
            wrong.push(format!("{}:{difference}", path.display()));
        }
        count += 1;
    }
    assert!(count >= 14, "only {count} scripts were found");
    assert!(wrong.is_empty(), "\n{}\nUPDATE=1 rewrites the scripts", wrong.join("\n"));
}

fn scripts() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut scripts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "txt")).collect();
    scripts.sort();
    scripts
}

/// The script with what comes out now in place of what is written.
fn replay(script: &str) -> String {
    let mut stage = commands::Stage::new();
    let mut replayed = String::new();
    let mut commands: Vec<&str> = Vec::new();
    let mut skipping = false;
    // The empty line at the end closes the last block.
    for line in script.trim_end().lines().chain([""]) {
        if skipping {
            skipping = !line.is_empty();
        } else if line == "----" || (line.is_empty() && !commands.is_empty()) {
            replayed.push_str("----\n");
            for command in commands.drain(..) {
                replayed.push_str(&stage.run(command));
            }
            skipping = !line.is_empty();
        } else if !line.is_empty() && !line.starts_with('#') {
            commands.push(line);
        }
        if !skipping {
            replayed.push_str(line);
            replayed.push('\n');
        }
    }
    format!("{}\n", replayed.trim_end())
}

/// The first line that is not as written, with its number.
fn difference(written: &str, replayed: &str) -> Option<String> {
    let mut got = replayed.lines();
    for (i, expected) in written.lines().enumerate() {
        let got = got.next();
        if got != Some(expected) {
            let got = got.unwrap_or("the end");
            return Some(format!("{}: written is\n  {expected}\nand it came out\n  {got}", i + 1));
        }
    }
    let more = got.next()?;
    Some(format!("{}: more came out: {more}", written.lines().count() + 1))
}

#[test]
fn a_wrong_expectation_is_found_and_told_with_its_line() {
    let right = "# prose\nregister web/a\n----\nweb/a: generation 1, epoch 1, revision 1\n  \
                 1 web/a: absent -> HEALTHY, registered by owner (10.0.0.1:80)\n\nrevision\n----\n1\n";
    assert_eq!(difference(right, &replay(right)), None);
    for (wrong, line) in [
        (right.replace("epoch 1", "epoch 2"), "4: written is\n  web/a: generation 1, epoch 2"),
        (right.replace("\n----\n1\n", "\n----\n2\n"), "9: written is\n  2\nand it came out\n  1"),
        (right.replace("\n----\n1\n", "\n----\n1\n2\n"), "10: written is\n  2\nand it came out"),
        (right.replace("\n----\n1\n", "\n----\n"), "9: more came out: 1"),
        (right.replace("\n----\n1\n", "\n"), "8: "),
    ] {
        let told = difference(&wrong, &replay(&wrong)).expect(line);
        assert!(told.starts_with(line), "{told}");
        assert_eq!(replay(&wrong), right, "UPDATE=1 repairs it");
    }
}

#[test]
#[should_panic(expected = "`registr`: no such command")]
fn an_unknown_command_is_no_output() {
    replay("registr web/a\n----\n");
}
