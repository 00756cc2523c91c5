//! Bugs that are planted on purpose, all of them in one scratch copy of the whole tree, where an environment variable
//! says which one is at work, to see that the suite finds each. Nothing of them is ever in the tree itself: a bug is a
//! file under `planted/` that says what to replace by what. `PLANTED` in a replacement holds where that bug is at work.

use crate::swarm::{self, BUG_VARIABLE, Order};
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What is put into the copy beside the bugs.
const AT_WORK: &str = r#"//! Which planted bug is at work.

/// Whether it is this one.
pub fn is_at_work(id: &str) -> bool {
    static BUG: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BUG.get_or_init(|| std::env::var("VARIABLE").unwrap_or_default()) == id
}
"#;

/// A run begins with a seed of its own: so far apart that no two share one.
const APART: u64 = 100_000;

/// A seed takes a second or two: one with a bug that takes longer than this, real time, hangs.
const LONGEST: Duration = Duration::from_secs(30);

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
    /// The promises that it should break, one of which has to be what finds it; `|` between them.
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

    /// Whether this is its id, or the number that begins it: `M01`.
    fn is_called(&self, name: &str) -> bool {
        self.id == name || self.id.split('-').next() == Some(name)
    }

    fn expects(&self, promise: &str) -> bool {
        self.expect.split(" | ").any(|expected| expected == promise)
    }

    /// Plants it into the text of a file of that name.
    ///
    /// # Errors
    /// A file that does not hold the text exactly once: the code has moved on, so must the bug.
    fn plant(&self, file: &Path, text: &str) -> Result<String, String> {
        let home = if file.starts_with("core") { "crate" } else { "rollcall_core" };
        let id = self.id.split('-').next().unwrap_or_default();
        let at_work = format!("{home}::planted::is_at_work(\"{id}\")");
        let mut text = text.to_owned();
        for edit in self.edits.iter().filter(|edit| edit.file == file) {
            let count = text.matches(&edit.find).count();
            if count != 1 || !edit.replace.contains("PLANTED") {
                let file = file.display();
                return Err(format!("{}: {file} holds what is replaced {count} times", self.id));
            }
            text = text.replacen(&edit.find, &edit.replace.replace("PLANTED", &at_work), 1);
        }
        Ok(text)
    }
}

/// The files that bugs change, with all bugs in them, and what tells which one is at work.
fn planted(bugs: &[Bug]) -> Result<BTreeMap<PathBuf, String>, Failure> {
    let lib = fs::read_to_string(root().join("core/src/lib.rs"))?;
    let lib = lib.replacen("\npub mod ", "\npub mod planted;\npub mod ", 1);
    let at_work = AT_WORK.replace("VARIABLE", BUG_VARIABLE);
    let mut files: BTreeMap<PathBuf, String> =
        [("core/src/lib.rs".into(), lib), ("core/src/planted.rs".into(), at_work)].into();
    for bug in bugs {
        for edit in &bug.edits {
            if !files.contains_key(&edit.file) {
                files.insert(edit.file.clone(), fs::read_to_string(root().join(&edit.file))?);
            }
        }
        for (file, text) in &mut files {
            *text = bug.plant(file, text)?;
        }
    }
    Ok(files)
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

/// Copies what git knows of the repository to a scratch place, with other contents of some files.
fn copy_tree(to: &Path, mut others: BTreeMap<PathBuf, String>) -> Result<(), Failure> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output()?;
    if !listed.status.success() {
        return Err("the planted bugs need a git checkout: git ls-files failed".into());
    }
    let names = String::from_utf8(listed.stdout)?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        match others.remove(Path::new(name)) {
            Some(text) => put(&to.join(name), text.as_bytes())?,
            None => {
                if let Ok(bytes) = fs::read(root().join(name)) {
                    put(&to.join(name), &bytes)?;
                }
            }
        }
    }
    others.iter().try_for_each(|(name, text)| put(&to.join(name), text.as_bytes()))
}

/// What is the same keeps its time, so that only what has changed is built anew.
fn put(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if fs::read(file).ok().as_deref() == Some(bytes) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(file, bytes)?)
}

/// Builds the simulation of a tree; its program.
fn build(tree: &Path, target: &Path) -> Result<PathBuf, Failure> {
    // Whichever runs this program; without one the proxy, which sets the toolchain for all that it starts.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cargo = Command::new(cargo)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .args(["build", "--release", "--locked", "-p", "rollcall-sim-tests", "--bin", "sim"])
        .output()?;
    if !cargo.status.success() {
        return Err(String::from_utf8_lossy(&cargo.stderr).into_owned().into());
    }
    Ok(target.join("release/sim"))
}

/// How bugs are hunted.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Runs for each bug, each with seeds of its own.
    pub runs: u64,
    /// Simulated seconds with faults, for each seed.
    pub seconds: u64,
    /// A run gives up after so long, real time.
    pub limit: Duration,
    /// Runs at a time.
    pub jobs: usize,
}

/// What the search for one bug came to.
#[derive(Debug, Default)]
struct Hunt {
    /// Seeds until it was found, one for each run that found it.
    found: Vec<u64>,
    /// Seeds of the runs that did not.
    missed: Vec<u64>,
    promises: BTreeMap<String, u64>,
}

impl Hunt {
    fn row(&self, bug: &Bug) -> String {
        let mut found = self.found.clone();
        found.sort_unstable();
        let median = found.get(found.len() / 2).map_or_else(|| "-".to_owned(), u64::to_string);
        let worst = found.last().map_or_else(|| "-".to_owned(), u64::to_string);
        let promises: Vec<_> = self.promises.iter().map(|(p, n)| format!("{p} ({n})")).collect();
        let runs = found.len() + self.missed.len();
        let (id, what, by) = (&bug.id, &bug.what, promises.join(", "));
        format!("| {id} | {what} | {by} | {} of {runs} | {median} | {worst} |", found.len())
    }
}

/// How one run ended: the promise that broke, if any, and how many seeds it took.
type Caught = (Option<String>, u64);

/// Runs one seed after the other until one breaks that holds without the bug. One that hangs shows nothing, and costs
/// little.
fn hunt(program: &Path, bug: &Bug, run: u64, effort: Effort) -> Result<Caught, Failure> {
    let id = bug.id.split('-').next().map(str::to_owned);
    let begin = Instant::now();
    for tried in 1..=bug.within {
        let left = effort.limit.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok((None, tried - 1));
        }
        let order = Order::new(run * APART + tried, effort.seconds);
        let sick = Order { bug: id.clone(), ..order.clone() };
        let ended = sick.run_within(program, LONGEST.min(left))?;
        let promise = swarm::promise(&ended.text);
        if ended.ok || promise == swarm::HANGS {
            continue;
        }
        let sound = order.run_within(program, LONGEST)?;
        if sound.ok {
            return Ok((Some(promise.to_owned()), tried));
        }
        if swarm::promise(&sound.text) != swarm::HANGS {
            return Err(format!("without any bug: {}", sound.text).into());
        }
    }
    Ok((None, bug.within))
}

/// Plants all bugs into a copy and hunts them, or one; prints the table of what found them.
///
/// # Errors
/// A bug that was not found in every run, or could not be planted or built.
#[expect(clippy::print_stdout, reason = "each line when it is known: all of them take long")]
pub fn table(only: Option<&str>, effort: Effort) -> Result<String, Failure> {
    let program = swarm::this_program()?;
    let target = program.parent().and_then(Path::parent).ok_or("no target folder")?.join("planted");
    let (tree, bugs) = (target.join("tree"), all()?);
    for name in only.iter().flat_map(|only| only.split(',')) {
        if !bugs.iter().any(|bug| bug.is_called(name)) {
            let known: Vec<_> = bugs.iter().map(|bug| bug.id.as_str()).collect();
            return Err(format!("--bug {name}: the bugs are {}", known.join(", ")).into());
        }
    }
    let hunted =
        |bug: &&Bug| only.is_none_or(|only| only.split(',').any(|name| bug.is_called(name)));
    copy_tree(&tree, planted(&bugs)?)?;
    let program = build(&tree, &target)?;
    println!("| bug | what | found by | found | median seeds | worst |\n|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for bug in bugs.iter().filter(hunted) {
        let hunt = hunts(&program, bug, effort)?;
        println!("{}", hunt.row(bug));
        if !hunt.found.is_empty() && !hunt.promises.keys().any(|promise| bug.expects(promise)) {
            missed.push(format!("{}: never found by what it should break: {}", bug.id, bug.expect));
        }
        if !hunt.missed.is_empty() {
            missed.push(format!("{}: not found within {:?} seeds", bug.id, hunt.missed));
        }
    }
    if missed.is_empty() { Ok(String::new()) } else { Err(missed.join("\n").into()) }
}

/// All runs for one bug, some at a time.
fn hunts(program: &Path, bug: &Bug, effort: Effort) -> Result<Hunt, Failure> {
    let queue: Mutex<VecDeque<u64>> = Mutex::new((1..=effort.runs).collect());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut ended = Vec::new();
        while let Some(run) = next() {
            ended.push(hunt(program, bug, run, effort).map_err(|error| error.to_string()));
        }
        ended
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..effort.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    let mut hunt = Hunt::default();
    for caught in ended {
        match caught? {
            (Some(promise), tried) => {
                *hunt.promises.entry(promise).or_default() += 1;
                hunt.found.push(tried);
            }
            (None, tried) => hunt.missed.push(tried),
        }
    }
    Ok(hunt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_still_fits_the_code() {
        let bugs = all().unwrap();
        assert!(bugs.len() >= 12, "{} bugs", bugs.len());
        let files = planted(&bugs).unwrap();
        for bug in &bugs {
            let id = bug.id.split('-').next().unwrap_or_default();
            let at_work = format!("is_at_work(\"{id}\")");
            assert!(files.values().any(|text| text.contains(&at_work)), "{}", bug.id);
        }
        let left = |text: &String| text.replace(BUG_VARIABLE, "").contains("PLANTED");
        assert!(!files.values().any(left));
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
