//! `snapshot trigger`, `export`, `inspect`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rollcall_client::Client;
use serde_json::json;

use super::super::args::SnapshotCommand;
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, stdout, words};
use crate::disk::StdDisk;
use crate::raft::snapshot;

/// Makes, saves or looks into a snapshot.
pub(crate) async fn snapshot(context: &Context, command: SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Trigger => trigger(context).await,
        SnapshotCommand::Export { file } => export(context, &file).await,
        SnapshotCommand::Inspect { file } => inspect(context, &file),
    }
}

async fn trigger(context: &Context) -> Outcome {
    let answer = context.client.trigger_snapshot().await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        let index = answer.last_included_index;
        complain(&format!("the node wrote a snapshot up to log index {index}"));
    }
    Ok(Exit::Ok)
}

async fn export(context: &Context, path: &Path) -> Outcome {
    let refused =
        |error: std::io::Error| Failure::new(format!("write {}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        let hint = "; give a name that does not exist yet";
        let hint = if error.kind() == std::io::ErrorKind::AlreadyExists { hint } else { "" };
        Failure::new(format!("create {}: {error}{hint}", path.display()))
    })?;
    let saved = match save(&context.client, &mut file).await {
        Ok(bytes) => file.sync_all().map(|()| bytes).map_err(refused),
        Err(Save::Registry(failure)) => Err(failure),
        Err(Save::Disk(error)) => Err(refused(error)),
    };
    let bytes = match saved {
        Ok(bytes) => bytes,
        Err(failure) => {
            // Half a snapshot is none. What cannot be removed is refused by its checksum.
            drop(std::fs::remove_file(path));
            return Err(failure);
        }
    };
    if context.is_json() {
        stdout::json(&json!({ "file": path.display().to_string(), "bytes": bytes }))?;
    } else {
        complain(&format!("saved {bytes} bytes to {}", path.display()));
    }
    Ok(Exit::Ok)
}

enum Save {
    Registry(Failure),
    Disk(std::io::Error),
}

async fn save(client: &Client, file: &mut File) -> Result<u64, Save> {
    let registry = |error: rollcall_client::Error| Save::Registry(error.into());
    let mut export = client.export_snapshot().await.map_err(registry)?;
    let mut bytes = 0;
    while let Some(part) = export.next().await.map_err(registry)? {
        if crc32c::crc32c(&part.data) != part.crc32c {
            let text =
                format!("the part at byte {} was damaged on its way; try again", part.offset);
            return Err(Save::Registry(Failure::new(text)));
        }
        file.write_all(&part.data).map_err(Save::Disk)?;
        bytes += part.data.len() as u64;
    }
    Ok(bytes)
}

fn inspect(context: &Context, path: &Path) -> Outcome {
    let info = snapshot::inspect(&StdDisk, path);
    let info = info.map_err(|error| Failure::new(error.to_string()))?;
    let last = info.meta.last_log_id;
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    let members: Vec<_> = info.meta.last_membership.nodes().collect();
    if context.is_json() {
        let members: Vec<_> = members
            .iter()
            .map(|(id, member)| {
                json!({
                    "node_id": words::id(**id),
                    "name": member.name,
                    "peer_address": member.peer.to_string(),
                })
            })
            .collect();
        stdout::json(&json!({
            "format_version": info.version,
            "cluster_id": format!("{:032x}", info.cluster_id),
            "epoch": info.epoch,
            "last_index": index,
            "last_term": term,
            "members": members,
            "parts": info.totals.parts,
            "content_bytes": info.totals.bytes,
            "file_bytes": info.file_bytes,
            "digest": format!("{:032x}", info.totals.digest),
        }))?;
        return Ok(Exit::Ok);
    }
    let names: Vec<_> = members.iter().map(|(_, member)| member.to_string()).collect();
    let rows = [
        ("format", format!("version {}", info.version)),
        ("cluster", format!("{:032x}, epoch {}", info.cluster_id, info.epoch)),
        ("covers", format!("log up to index {index}, term {term}")),
        ("members", names.join(", ")),
        ("content", format!("{} bytes in {} parts", info.totals.bytes, info.totals.parts)),
        ("file", format!("{} bytes, undamaged", info.file_bytes)),
        ("digest", format!("{:032x}", info.totals.digest)),
    ];
    for (what, value) in rows {
        stdout::line(&format!("{what:<11} {value}"))?;
    }
    Ok(Exit::Ok)
}
