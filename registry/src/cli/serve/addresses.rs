//! Where the nodes of `rollcall dev` listened the last time. Members know each other by their addresses, so a
//! cluster that comes back must come back at the same ones.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::super::args::DevArgs;
use crate::config::ListenSettings;
use crate::node::{Listen, Node};

/// File in the data directory.
const FILE: &str = "addresses.json";

/// Addresses of all nodes, in their order; empty for a new directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Addresses(Vec<ListenSettings>);

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

impl Addresses {
    /// What the directory remembers.
    pub(super) fn load(data: &Path) -> Result<Self, Failure> {
        let path = path(data);
        let refused = |error: &dyn std::fmt::Display| {
            Failure::new(format!("read {}: {error}; use another --data-dir", path.display()))
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| refused(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Where each node shall listen now: where it did before, unless it stands alone.
    pub(super) fn choose(
        self,
        args: &DevArgs,
        data: &Path,
    ) -> Result<Vec<ListenSettings>, Failure> {
        let wanted = (0..args.nodes).map(|index| args.listen(index));
        let Self(before) = self;
        if before.len() <= 1 {
            return Ok(wanted.collect());
        }
        let data = data.display();
        if before.len() > usize::from(args.nodes) {
            let count = before.len();
            let text = format!("{data} holds {count} nodes: give --nodes {count}");
            return Err(Failure::new(format!("{text}, or another --data-dir")));
        }
        let mut chosen = Vec::new();
        for (at, wanted) in wanted.enumerate() {
            match before.get(at) {
                Some(before) if args.port_base == 0 || *before == wanted => {
                    chosen.push(before.clone());
                }
                Some(before) => {
                    return Err(Failure::new(format!(
                        "the nodes in {data} know each other at other addresses (node {} at {}): \
                         give --port-base 0 to use those, or another --data-dir",
                        at + 1,
                        before.peer
                    )));
                }
                None => chosen.push(wanted),
            }
        }
        Ok(chosen)
    }

    /// Remembers where the nodes listen.
    pub(super) fn save(nodes: &[Node], data: &Path) -> Result<(), Failure> {
        let settings = |Listen { grpc, http, dns, peer }| ListenSettings {
            grpc,
            http,
            dns,
            peer,
            ..ListenSettings::default()
        };
        let all = Self(nodes.iter().map(|node| settings(node.listen)).collect());
        let path = path(data);
        let text = serde_json::to_vec_pretty(&all).map_err(|e| Failure::new(e.to_string()))?;
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
    }
}
