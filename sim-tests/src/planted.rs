//! Bugs that are planted on purpose, each in a scratch copy of the whole tree, to see that the suite finds them. Nothing
//! of them is ever in the tree itself: a bug is a file under `planted/` that says what to replace by what.

use crate::swarm::{self, Order};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A run begins with a seed of its own: so far apart that no two share one.
const APART: u64 = 100_000;

type Failure = Box<dyn std::error::Error>;

/// One replacement in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file, from the root of the repository.
    pub file: PathBuf,
    /// What stands there, exactly once.
    pub find: String,
    /// What stands there instead.
    pub replace: String,
}

/// One bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bug {
    /// Its id: the name of its file.
    pub id: String,
    /// What is wrong.
    pub what: String,
    /// The promise that it should break.
    pub expect: String,
    /// Within so many seeds.
    pub within: u64,
    /// The replacements.
    pub edits: Vec<Edit>,
}

/// The root of the repository that this was built in.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

impl Bug {
    /// Reads a bug: lines `what:`, `expect:`, `within:`, then any number of `=== FILE`, `--- find` and `--- replace`.
    ///
    /// # Errors
    /// What is missing.
    pub fn parse(id: &str, text: &str) -> Result<Self, String> {
        let mut heads: BTreeMap<&str, &str> = BTreeMap::new();
        let mut edits: Vec<Edit> = Vec::new();
        let mut part = "";
        for line in text.lines() {
            if let Some(file) = line.strip_prefix("=== ") {
                let (find, replace) = (String::new(), String::new());
                edits.push(Edit { file: file.into(), find, replace });
                part = "";
            } else if let Some(name) = line.strip_prefix("--- ") {
                part = if name == "find" { "find" } else { "replace" };
            } else if let Some(edit) = edits.last_mut() {
                let into = if part == "find" { &mut edit.find } else { &mut edit.replace };
                into.push_str(line);
                into.push('\n');
            } else if let Some((key, value)) = line.split_once(": ") {
                heads.insert(key, value);
            }
        }
        let head = |key: &str| heads.get(key).copied().ok_or_else(|| format!("{id}: no {key}:"));
        let within = head("within")?.parse().map_err(|_| format!("{id}: within: not a number"))?;
        if edits.is_empty() || edits.iter().any(|edit| edit.find.is_empty()) {
            return Err(format!("{id}: nothing to replace"));
        }
        let (what, expect) = (head("what")?.to_owned(), head("expect")?.to_owned());
        Ok(Self { id: id.to_owned(), what, expect, within, edits })
    }

    /// Plants it into a tree.
    ///
    /// # Errors
    /// A file that cannot be read, or does not hold the text exactly once: the code has moved on, so must the bug.
    pub fn plant(&self, tree: &Path) -> Result<(), String> {
        for edit in &self.edits {
            let path = tree.join(&edit.file);
            let named = |error: std::io::Error| format!("{}: {}: {error}", self.id, path.display());
            let text = fs::read_to_string(&path).map_err(named)?;
            let count = text.matches(&edit.find).count();
            if count != 1 {
                let file = edit.file.display();
                return Err(format!(
                    "{}: {file} holds what is to be replaced {count} times",
                    self.id
                ));
            }
            let text = text.replacen(&edit.find, &edit.replace, 1);
            fs::write(&path, text).map_err(named)?;
        }
        Ok(())
    }
}

/// All bugs, by id.
///
/// # Errors
/// A file that cannot be read.
pub fn all() -> Result<Vec<Bug>, Failure> {
    let mut bugs = Vec::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(root().join("sim-tests/planted"))? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "txt")) {
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        bugs.push(Bug::parse(&id, &fs::read_to_string(path)?)?);
    }
    Ok(bugs)
}

/// Copies what git knows of the repository to a scratch place under the target folder.
fn copy_tree(to: &Path) -> Result<(), Failure> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output()?;
    if !listed.status.success() {
        return Err("the planted bugs need a git checkout: git ls-files failed".into());
    }
    let names = String::from_utf8(listed.stdout)?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root().join(name), to.join(name));
        if let (Ok(bytes), Some(folder)) = (fs::read(&from), to.parent()) {
            fs::create_dir_all(folder)?;
            // What is the same keeps its time, so that only what a bug changes is built anew.
            if fs::read(&to).ok().as_deref() != Some(&bytes) {
                fs::write(&to, bytes)?;
            }
        }
    }
    Ok(())
}

/// Members of the workspace that a bug may make cargo build anew.
const MEMBERS: &[&str] = &["core", "proto", "dns", "client", "registry", "sim-tests"];

/// Builds the simulation of a tree; its program. What the workspace holds is not optimised even in a release build: it
/// is built anew for each bug, and a bug is found in few seeds.
fn build(tree: &Path, target: &Path, optimised: bool) -> Result<PathBuf, Failure> {
    let plain = |name: &&str| format!("profile.release.package.rollcall-{name}.opt-level=0");
    let cargo = Command::new(env!("CARGO"))
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_INCREMENTAL", "1")
        .args(["build", "--locked", "-p", "rollcall-sim-tests", "--bin", "sim"])
        .args(optimised.then_some("--release"))
        .args(MEMBERS.iter().flat_map(|member| ["--config".to_owned(), plain(member)]))
        .output()?;
    if !cargo.status.success() {
        return Err(String::from_utf8_lossy(&cargo.stderr).into_owned().into());
    }
    Ok(target.join(if optimised { "release/sim" } else { "debug/sim" }))
}

/// What the search for one bug came to.
#[derive(Debug, Default)]
struct Hunt {
    /// Seeds until it was found, one for each run that found it.
    found: Vec<u64>,
    missed: u64,
    promises: BTreeMap<String, u64>,
}

fn hunt(program: &Path, bug: &Bug, runs: u64, seconds: u64) -> Result<Hunt, Failure> {
    let mut hunt = Hunt::default();
    for run in 1..=runs {
        let mut found = None;
        for tried in 1..=bug.within {
            let ended = Order::new(run * APART + tried, seconds).run(program)?;
            if !ended.ok {
                *hunt.promises.entry(swarm::promise(&ended.text).to_owned()).or_default() += 1;
                found = Some(tried);
                break;
            }
        }
        match found {
            Some(tried) => hunt.found.push(tried),
            None => hunt.missed += 1,
        }
    }
    hunt.found.sort_unstable();
    Ok(hunt)
}

/// Plants all bugs, or one, each into its copy; the table of what found them.
///
/// # Errors
/// A bug that was not found in every run, or could not be planted or built.
#[expect(clippy::print_stdout, reason = "each line when it is known: all of them take long")]
pub fn table(only: Option<&str>, runs: u64, seconds: u64) -> Result<String, Failure> {
    let program = swarm::this_program()?;
    // The copy is built as this program was: few seeds of many bugs are had sooner without optimisation.
    let optimised = !cfg!(debug_assertions);
    let target = program.parent().and_then(Path::parent).ok_or("no target folder")?.join("planted");
    let tree = target.join("tree");
    println!("| bug | what | found by | median seeds | worst | of |\n|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for bug in all()?.iter().filter(|bug| only.is_none_or(|only| bug.id.starts_with(only))) {
        copy_tree(&tree)?;
        bug.plant(&tree)?;
        let hunt = hunt(&build(&tree, &target, optimised)?, bug, runs, seconds)?;
        let median = hunt.found.get(hunt.found.len() / 2).copied().unwrap_or_default();
        let worst = hunt.found.last().copied().unwrap_or_default();
        let promises: Vec<_> = hunt.promises.iter().map(|(p, n)| format!("{p} ({n})")).collect();
        let (id, what, found) = (&bug.id, &bug.what, promises.join(", "));
        println!("| {id} | {what} | {found} | {median} | {worst} | {} |", bug.within);
        if hunt.missed > 0 {
            missed.push(format!("{id}: {} of {runs} runs did not find it", hunt.missed));
        }
    }
    // The copy is left as it was taken.
    copy_tree(&tree)?;
    if missed.is_empty() { Ok(String::new()) } else { Err(missed.join("\n").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_still_fits_the_code() {
        let bugs = all().unwrap();
        assert!(bugs.len() >= 12, "{} bugs", bugs.len());
        for bug in bugs {
            for edit in &bug.edits {
                let text = fs::read_to_string(root().join(&edit.file)).unwrap();
                assert_eq!(text.matches(&edit.find).count(), 1, "{}: {:?}", bug.id, edit.file);
                assert_ne!(edit.find, edit.replace, "{}", bug.id);
            }
        }
    }

    #[test]
    fn a_bug_is_read_from_its_file() {
        let text = "what: a\nexpect: b\nwithin: 3\n=== x/y.rs\n--- find\none\n--- replace\ntwo\n";
        let bug = Bug::parse("id", text).unwrap();
        assert_eq!((bug.what.as_str(), bug.within), ("a", 3));
        let edit = &bug.edits[0];
        assert_eq!((edit.find.as_str(), edit.replace.as_str()), ("one\n", "two\n"));
        assert!(Bug::parse("id", "what: a\n").is_err());
    }
}
