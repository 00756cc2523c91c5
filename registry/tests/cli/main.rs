//! The real program against the real program: every command, its output, its exit codes, its signals.
//! Everything has a deadline, ports are free ones, and what was started is ended by its process id.
#![expect(clippy::unwrap_used, reason = "all of this program is a test")]

mod codes;
mod harness;
mod nodes;
mod operate;
mod own;
mod read;
mod streams;
