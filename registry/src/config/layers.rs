//! Merging: defaults < file < environment < flags, with the origin of each value remembered.
//!
//! Environment and flags arrive as text and are read by the type of the setting that they name,
//! so a node may be called `007` and a list is written `a,b`. Unknown keys are found here, for
//! each source by itself, because only here it is known which source wrote them.

use std::path::{Path, PathBuf};

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{ConfigError, Problem};
use super::{Config, render};

const ENVIRONMENT_PREFIX: &str = "ROLLCALL__";
const DEFAULT_ORIGIN: &str = "default";

/// One setting given as text by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The setting, such as `raft.heartbeat`.
    pub key: String,
    /// Its value as it was written.
    pub text: String,
    /// The flag, as the person knows it: `--set`, `--listen-grpc`.
    pub origin: String,
}

/// Where settings come from, apart from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file. It must exist.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `ROLLCALL__` are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags; of two that name the same setting the later one counts.
    pub flags: Vec<Override>,
}

impl Sources {
    /// Takes the environment of this process. The only place that reads it.
    pub fn with_process_environment(mut self) -> Self {
        self.environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                let ours = name.starts_with(ENVIRONMENT_PREFIX);
                ours.then(|| (name, value.to_string_lossy().into_owned()))
            })
            .collect();
        self.environment.sort();
        self
    }
}

/// A valid configuration and the origin of each of its values.
#[derive(Debug)]
pub struct Loaded {
    /// The merged, validated settings.
    pub config: Config,
    figment: Figment,
}

impl Loaded {
    /// Where the value of `key` came from; `None` for a default and for an unknown key.
    pub fn origin(&self, key: &str) -> Option<String> {
        origin_of(&self.figment, key)
    }

    /// The settings as TOML; a value that is not a default says in a comment where it came from.
    pub fn render(&self) -> String {
        let mut section = String::new();
        let mut text = String::new();
        for line in render(&self.config).lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            }
            text.push_str(line);
            let key = line.split_once(" = ").map(|(key, _)| format!("{section}.{key}"));
            if let Some(origin) = key.and_then(|key| self.origin(&key)) {
                text.push_str(&format!("  # {origin}"));
            }
            text.push('\n');
        }
        text
    }
}

/// Reads, merges and validates.
///
/// # Errors
/// [`ConfigError`]: an unreadable or malformed file, or everything that is wrong with the keys,
/// the types and the ranges.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let known = defaults();
    let mut problems = Vec::new();
    let mut figment = Figment::new().merge(Layer::new(DEFAULT_ORIGIN.to_owned(), known.clone()));
    if let Some(path) = &sources.file {
        let dict = read_file(path)?;
        let origin = path.display().to_string();
        find_unknown(&dict, &known, "", &origin, &mut problems);
        figment = figment.merge(Layer::new(origin, dict));
    }
    for given in from_environment(&sources.environment).iter().chain(&sources.flags) {
        match lookup(&known, &given.key) {
            Some(default) => {
                let value = figment::util::nest(&given.key, read_text(&given.text, default));
                let dict = value.into_dict().expect("a key with a section nests");
                figment = figment.merge(Layer::new(given.origin.clone(), dict));
            }
            None => problems.push(unknown(&given.key, &given.origin, &known)),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError::Refused(problems));
    }
    finish(figment)
}

fn finish(figment: Figment) -> Result<Loaded, ConfigError> {
    let config: Config = figment.extract().map_err(|error| {
        ConfigError::Refused(error.into_iter().map(wrong_type).collect::<Vec<_>>())
    })?;
    let mut problems = config.validate();
    for problem in &mut problems {
        problem.origin = origin_of(&figment, &problem.key);
    }
    if problems.is_empty() {
        Ok(Loaded { config, figment })
    } else {
        Err(ConfigError::Refused(problems))
    }
}

fn wrong_type(error: figment::Error) -> Problem {
    let origin = error.metadata.as_ref().map(|metadata| metadata.name.to_string());
    Problem { key: error.path.join("."), origin, text: format!("cannot be used: {}", error.kind) }
}

fn origin_of(figment: &Figment, key: &str) -> Option<String> {
    let name = figment.find_metadata(key)?.name.to_string();
    (name != DEFAULT_ORIGIN).then_some(name)
}

/// One source with its name, so that figment can tell where a value came from.
struct Layer {
    origin: String,
    data: Dict,
}

impl Layer {
    fn new(origin: String, data: Dict) -> Self {
        Self { origin, data }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

fn defaults() -> Dict {
    let provider = Serialized::defaults(Config::default());
    let mut profiles = provider.data().expect("the defaults serialize");
    profiles.remove(&Profile::Default).expect("they are in the default profile")
}

fn read_file(path: &Path) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        text: error.to_string().trim_end().to_owned(),
    })
}

fn from_environment(variables: &[(String, String)]) -> Vec<Override> {
    let ours = variables.iter().filter_map(|(name, text)| {
        let key = name.strip_prefix(ENVIRONMENT_PREFIX)?;
        Some(Override {
            key: key.to_lowercase().replace("__", "."),
            text: text.clone(),
            origin: format!("environment variable {name}"),
        })
    });
    ours.collect()
}

/// Text read as the type of the default value that it replaces.
fn read_text(text: &str, default: &Value) -> Value {
    let parse = |text: &str| text.parse::<Value>().unwrap_or_else(|never| match never {});
    // `[::1]:8300` is an address, not a list.
    let bracketed = text.trim().starts_with('[') && text.trim().ends_with(']');
    match default {
        Value::String(..) | Value::Char(..) => Value::from(text),
        Value::Array(..) if bracketed => parse(text),
        Value::Array(..) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
        _ => parse(text),
    }
}

/// The default of a setting; `None` for an unknown key and for a whole section.
fn lookup<'a>(known: &'a Dict, key: &str) -> Option<&'a Value> {
    let (section, name) = key.split_once('.')?;
    known.get(section)?.as_dict()?.get(name)
}

fn find_unknown(dict: &Dict, known: &Dict, path: &str, origin: &str, found: &mut Vec<Problem>) {
    for (name, value) in dict {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (known.get(name), value) {
            (None, _) => found.push(unknown(&key, origin, &defaults())),
            (Some(Value::Dict(_, known)), Value::Dict(_, inner)) => {
                find_unknown(inner, known, &key, origin, found);
            }
            // A value where a section belongs, or the reverse: the typed reading reports it.
            (Some(_), _) => {}
        }
    }
}

fn unknown(key: &str, origin: &str, known: &Dict) -> Problem {
    let mut all = Vec::new();
    for (section, value) in known {
        all.push(section.clone());
        let names = value.as_dict().into_iter().flat_map(Dict::keys);
        all.extend(names.map(|name| format!("{section}.{name}")));
    }
    let near = |candidate: &String| strsim::jaro_winkler(candidate, key);
    let nearest = all.iter().max_by(|left, right| near(left).total_cmp(&near(right)));
    let text = match nearest.filter(|candidate| near(candidate) > 0.85) {
        Some(candidate) => format!("is not a setting; did you mean `{candidate}`?"),
        None => "is not a setting; `rollcall config show` lists all of them".to_owned(),
    };
    Problem { key: key.to_owned(), origin: Some(origin.to_owned()), text }
}
