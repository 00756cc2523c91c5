//! Stand-ins for `rollcall_proto::stored`, until it exists: values are kept in a table of this process, and
//! their places in it are what is stored.

use std::sync::{Mutex, PoisonError};

use rollcall_core::{Outcome, Stamped, State};

static COMMANDS: Mutex<Vec<Stamped>> = Mutex::new(Vec::new());
static OUTCOMES: Mutex<Vec<Outcome>> = Mutex::new(Vec::new());
static STATES: Mutex<Vec<State>> = Mutex::new(Vec::new());

fn put<T: Clone>(table: &Mutex<Vec<T>>, value: &T) -> Vec<u8> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.push(value.clone());
    (table.len() as u64).to_le_bytes().to_vec()
}

fn get<T: Clone>(table: &Mutex<Vec<T>>, bytes: &[u8]) -> Result<T, String> {
    let place = bytes.try_into().map(u64::from_le_bytes).map_err(|_| "not a place")?;
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let found = place.checked_sub(1).and_then(|at| table.get(at as usize).cloned());
    found.ok_or_else(|| "unknown place".to_owned())
}

pub fn encode_command(stamped: &Stamped) -> Vec<u8> {
    put(&COMMANDS, stamped)
}

pub fn decode_command(bytes: &[u8]) -> Result<Stamped, String> {
    get(&COMMANDS, bytes)
}

pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    put(&OUTCOMES, outcome)
}

pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, String> {
    get(&OUTCOMES, bytes)
}

pub fn state_parts(state: &State) -> impl Iterator<Item = Vec<u8>> {
    std::iter::once(put(&STATES, state))
}

#[derive(Debug)]
pub struct StateLoader(Option<State>);

impl StateLoader {
    pub fn new(_journal_events: usize) -> Self {
        Self(None)
    }

    pub fn load(&mut self, part: &[u8]) -> Result<(), String> {
        self.0 = Some(get(&STATES, part)?);
        Ok(())
    }

    pub fn finish(self) -> Result<State, String> {
        self.0.ok_or_else(|| "no part".to_owned())
    }
}
