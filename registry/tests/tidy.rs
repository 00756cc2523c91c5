//! The house rules that a machine can check: links, headers, sizes, leftovers, crate edges.
//! Each rule is a function from text to problems, so that planted violations test the rules.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 600;
/// Written in two halves, so that this file keeps its own rule.
const LEFTOVERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("db", "g!("),
    concat!("#[ign", "ore"),
];
/// Crate, and what it must not reach, directly or through others. `*` is every crate.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("rollcall-core", &["tokio", "tonic", "openraft", "hyper", "rand", "futures", "rollcall-*"]),
    ("rollcall-dns", &["rollcall-proto", "tonic", "openraft"]),
    ("rollcall-client", &["rollcall-registry", "openraft"]),
    ("*", &["rollcall-sim-tests", "rollcall-system-tests", "rollcall-bench"]),
];
type Edges = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates stand in the root")
}

fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn source_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push("does not start with //!".to_owned());
    }
    if text.lines().count() > FILE_LINES_MAX {
        problems.push(format!("{} lines, {FILE_LINES_MAX} allowed", text.lines().count()));
    }
    for (at, line) in text.lines().enumerate() {
        let left = LEFTOVERS.iter().filter(|leftover| line.contains(**leftover));
        problems.extend(left.map(|leftover| format!("line {}: {leftover}", at + 1)));
    }
    problems
}

/// Link targets outside code blocks that name a file for which `exists` is false.
fn broken_links(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| prose.split("](").skip(1)).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        (!target.is_empty() && !target.contains("://") && !exists(target)).then_some(target)
    });
    targets.map(str::to_owned).collect()
}

/// Everything that each workspace crate reaches: direct edges without tests, then the lock file.
fn reachable(metadata: &str, lock: &str) -> Edges {
    let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap();
    let lock: toml::Table = toml::from_str(lock).unwrap();
    let mut edges = Edges::new();
    for package in lock["package"].as_array().unwrap() {
        let needs = package.get("dependencies").and_then(toml::Value::as_array);
        let names = needs.into_iter().flatten().map(|need| need.as_str().unwrap());
        let names = names.map(|need| need.split(' ').next().unwrap_or(need).to_owned());
        edges.entry(package["name"].as_str().unwrap().to_owned()).or_default().extend(names);
    }
    let mut ours = Edges::new();
    for package in metadata["packages"].as_array().unwrap() {
        let needs = package["dependencies"].as_array().unwrap();
        let direct = needs.iter().filter(|need| need["kind"] != "dev");
        let mut open: Vec<String> =
            direct.map(|need| need["name"].as_str().unwrap().to_owned()).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if seen.insert(name.clone()) {
                open.extend(edges.get(&name).into_iter().flatten().cloned());
            }
        }
        ours.insert(package["name"].as_str().unwrap().to_owned(), seen);
    }
    ours
}

fn forbidden_edges(reachable: &Edges) -> Vec<String> {
    let fits = |rule: &str, name: &str| match rule.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => rule == name,
    };
    let mut problems = Vec::new();
    for (name, needs) in reachable {
        for (_, banned) in FORBIDDEN.iter().filter(|(rule, _)| fits(rule, name)) {
            let hit = needs.iter().filter(|need| banned.iter().any(|rule| fits(rule, need)));
            problems.extend(hit.map(|need| format!("{name} must not depend on {need}")));
        }
    }
    problems
}

#[test]
fn the_repository_keeps_its_rules() {
    let (mut sources, mut pages, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    files(root(), ".rs", &mut sources);
    files(root(), ".md", &mut pages);
    let mut lines = BTreeMap::<String, usize>::new();
    for path in &sources {
        let (text, name) = (std::fs::read_to_string(path).unwrap(), path.strip_prefix(root()));
        let crate_name = name.unwrap().iter().next().unwrap().to_string_lossy().into_owned();
        *lines.entry(crate_name).or_default() += text.lines().count();
        let found = source_problems(&text).into_iter();
        problems.extend(found.map(|problem| format!("{}: {problem}", path.display())));
    }
    for path in &pages {
        let text = std::fs::read_to_string(path).unwrap();
        let broken = broken_links(&text, |to| path.with_file_name("").join(to).exists());
        problems.extend(broken.iter().map(|link| format!("{}: no file {link}", path.display())));
    }
    let arguments = ["metadata", "--format-version", "1", "--offline", "--no-deps"];
    let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().unwrap();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let metadata = String::from_utf8(output.stdout).unwrap();
    problems.extend(forbidden_edges(&reachable(&metadata, &lock)));
    println!("lines with tests: {lines:?}, longest file allowed: {FILE_LINES_MAX}");
    assert!(sources.len() > 4 && !lines.is_empty(), "found no sources in {}", root().display());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn planted_violations_in_sources_are_found() {
    assert_eq!(source_problems("//! Good.\nfn f() {}\n"), Vec::<String>::new());
    for leftover in LEFTOVERS {
        assert_eq!(source_problems(&format!("//! Bad.\n// {leftover}")).len(), 1, "{leftover}");
    }
    assert_eq!(source_problems("fn f() {}\n").len(), 1);
    assert_eq!(source_problems(&"//! Line.\n".repeat(FILE_LINES_MAX)).len(), 0);
    assert_eq!(source_problems(&"//! Line.\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn planted_broken_links_are_found() {
    let text = "[a](there.md#part) [b](gone.md) [c](https://x/y) [d](#e)\n```\n[f](code.md)\n```\n";
    assert_eq!(broken_links(text, |to| to == "there.md"), ["gone.md"]);
}

#[test]
fn planted_edges_are_found_directly_through_others_and_not_in_tests() {
    let need = |name: &str, kind: &str| format!(r#"{{"name":"{name}","kind":{kind}}}"#);
    let packages = [
        ("rollcall-core", vec![need("middle", "null"), need("tokio", "\"dev\"")]),
        ("rollcall-client", vec![need("rollcall-registry", "\"build\"")]),
        ("rollcall-registry", vec![need("rollcall-sim-tests", "null")]),
    ];
    let packages = packages.map(|(name, needs)| {
        format!(r#"{{"name":"{name}","dependencies":[{}]}}"#, needs.join(","))
    });
    let metadata = format!(r#"{{"packages":[{}]}}"#, packages.join(","));
    let lock = "[[package]]\nname = 'middle'\ndependencies = ['rand 0.9.1 (registry)']\n";
    let expected = [
        "rollcall-client must not depend on rollcall-registry",
        "rollcall-core must not depend on rand",
        "rollcall-registry must not depend on rollcall-sim-tests",
    ];
    assert_eq!(forbidden_edges(&reachable(&metadata, lock)), expected);
}
