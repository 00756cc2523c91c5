//! A state from a snapshot. Reading, understanding and putting together go on side by side where there may be
//! threads, because a node that starts answers nobody before it has its state.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use rollcall_core::State;
use rollcall_core::state::{Loader, Part};
use rollcall_proto::stored::{StateChunk, StateLoader, StateReader, StoredError};

use super::snapshot::SnapshotHandle;
use crate::host::WriterMode;

/// Chunks of a quarter of a MiB that may wait between two threads.
const WAITING: usize = 4;

/// Loads all of a snapshot. Blocks.
pub(crate) fn load_state(
    snapshot: &SnapshotHandle,
    journal_events: usize,
    mode: WriterMode,
) -> Result<State, io::Error> {
    match mode {
        WriterMode::Thread => load_threaded(snapshot, journal_events),
        WriterMode::Task => {
            let mut loader = StateLoader::new(journal_events);
            for chunk in snapshot.parts() {
                loader.add(&chunk?).map_err(invalid)?;
            }
            loader.finish().map_err(invalid)
        }
    }
}

fn invalid(error: StoredError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn load_threaded(snapshot: &SnapshotHandle, journal_events: usize) -> Result<State, io::Error> {
    thread::scope(|scope| {
        let (taken_apart, chunks) = sync_channel::<Result<StateChunk, io::Error>>(WAITING);
        let (understood, parts) = sync_channel::<Result<Vec<Part>, io::Error>>(WAITING);
        // Whoever meets an error passes it on and ends; a send fails once the one behind has ended.
        let take_apart = move || {
            for chunk in snapshot.parts() {
                let chunk = chunk.and_then(|chunk| StateChunk::decode(&chunk).map_err(invalid));
                let failed = chunk.is_err();
                if taken_apart.send(chunk).is_err() || failed {
                    return;
                }
            }
        };
        let understand = move || {
            let mut reader = StateReader::default();
            for chunk in chunks {
                let parts = chunk.and_then(|chunk| reader.read(chunk).map_err(invalid));
                let failed = parts.is_err();
                if understood.send(parts).is_err() || failed {
                    return;
                }
            }
        };
        thread::Builder::new().name("snapshot-read".to_owned()).spawn_scoped(scope, take_apart)?;
        thread::Builder::new().name("snapshot-parts".to_owned()).spawn_scoped(scope, understand)?;
        let mut loader = Loader::new(journal_events);
        for parts in parts {
            for part in parts? {
                loader.add(part).map_err(|damaged| invalid(damaged.into()))?;
            }
        }
        loader.finish().map_err(|damaged| invalid(damaged.into()))
    })
}
