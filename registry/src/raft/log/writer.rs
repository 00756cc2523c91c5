//! The one writer: takes what is queued, makes it durable in one transaction, then tells everybody. Its first
//! error is its last write.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;

use openraft::storage::IOFlushed;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Shared;
use super::file::Change;
use crate::host::{WriterMode, wait_for};
use crate::raft::types::{LogId, TypeConfig};

/// How many queued commands one transaction takes at most.
const BATCH_COMMANDS: usize = 1024;

/// Who waits for a command.
pub(super) enum Waiter {
    /// Nobody: what fails is reported as fatal.
    Nobody,
    /// openraft, for appended entries; the permit bounds the bytes that wait.
    Append(IOFlushed<TypeConfig>, OwnedSemaphorePermit),
    /// A caller.
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Nobody => {}
            Self::Append(callback, _permit) => callback.io_completed(result),
            // A caller that went away needs no answer.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

/// What can be queued.
pub(super) enum Order {
    /// A change that must become durable.
    Change(Change),
    /// Remembered, and written with the next change: worth no fsync.
    Committed(LogId),
    /// Close the file in order.
    Close,
}

/// One command of the queue.
pub(super) struct Command {
    /// Grows by one for each command.
    pub(super) position: u64,
    pub(super) order: Order,
    pub(super) waiter: Waiter,
}

/// The state of the writer.
pub(super) struct LogWriter {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// The number of the last commit.
    commit: u64,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Whether purged records still take space in the file.
    purging: bool,
    failed: Option<String>,
}

impl LogWriter {
    /// Starts the writer where `mode` says.
    pub(super) fn start(
        mode: WriterMode,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        commit: u64,
        purged: Option<LogId>,
    ) -> io::Result<()> {
        let writer = Self {
            shared,
            commands,
            commit,
            committed: None,
            purged,
            purging: purged.is_some(),
            failed: None,
        };
        match mode {
            WriterMode::Thread => {
                let thread = thread::Builder::new().name("raft-log".to_owned());
                thread.spawn(move || writer.run_on_thread()).map(drop)
            }
            WriterMode::Task => {
                tokio::spawn(writer.run_as_task());
                Ok(())
            }
        }
    }

    fn run_on_thread(mut self) {
        let mut batch = Vec::new();
        loop {
            if !self.drain(&mut batch)
                && self.commands.blocking_recv_many(&mut batch, BATCH_COMMANDS) == 0
            {
                return;
            }
            self.process(&mut batch);
        }
    }

    async fn run_as_task(mut self) {
        let mut batch = Vec::new();
        loop {
            if !self.drain(&mut batch)
                && self.commands.recv_many(&mut batch, BATCH_COMMANDS).await == 0
            {
                return;
            }
            wait_for(&*self.shared.disk).await;
            self.process(&mut batch);
            // Give way between the steps of a long purge.
            tokio::task::yield_now().await;
        }
    }

    /// While there is something to purge, takes what is queued without waiting. `false`: wait for more.
    fn drain(&mut self, batch: &mut Vec<Command>) -> bool {
        if !self.purging || self.failed.is_some() {
            return false;
        }
        while batch.len() < BATCH_COMMANDS {
            match self.commands.try_recv() {
                Ok(command) => batch.push(command),
                Err(TryRecvError::Empty) => break,
                // Nobody is left: what is still to purge waits for the next start.
                Err(TryRecvError::Disconnected) => return !batch.is_empty(),
            }
        }
        true
    }

    /// Makes a batch durable and answers everybody in it.
    fn process(&mut self, batch: &mut Vec<Command>) {
        let position = batch.last().map_or(0, |command| command.position);
        let mut changes = Vec::new();
        let mut waiters = VecDeque::new();
        let mut close = false;
        for Command { order, waiter, .. } in batch.drain(..) {
            match order {
                Order::Change(change) => {
                    if let Change::Purge(upto) = &change {
                        self.purged = Some(*upto);
                        self.purging = true;
                    }
                    changes.push(change);
                }
                Order::Committed(id) => self.committed = Some(id),
                Order::Close => close = true,
            }
            waiters.push_back(waiter);
        }
        let result = self.commit(changes, close, position);
        for waiter in waiters {
            waiter.tell(result.clone().map_err(io::Error::other));
        }
    }

    fn commit(
        &mut self,
        mut changes: Vec<Change>,
        close: bool,
        position: u64,
    ) -> Result<(), String> {
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        let flush = close && self.committed.is_some();
        if !changes.is_empty() || self.purging || flush {
            changes.extend(self.committed.take().map(Change::Committed));
            let result = self.shared.with_file(|file| {
                file.commit(self.commit + 1, &changes, self.purged.filter(|_| self.purging))
            });
            match result {
                Ok(more) => self.purging = more,
                Err(reason) => return Err(self.fail(reason)),
            }
            self.commit += 1;
            self.shared.committed(&changes);
        }
        self.shared.queue_done(position);
        if close {
            self.failed = Some("the raft log was closed".to_owned());
            self.shared.close();
        }
        Ok(())
    }

    /// Stops for good: an fsync that failed is never tried again, since its pages may be gone.
    fn fail(&mut self, reason: String) -> String {
        tracing::error!(%reason, "the raft log cannot be written");
        self.shared.fatal.report(&reason);
        self.failed = Some(reason.clone());
        reason
    }
}
