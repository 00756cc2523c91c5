//! The cluster's secret: the first one stays.

use super::State;
use crate::{
    command::{Done, Rejection},
    secret::ClusterSecret,
};

impl State {
    /// The secret that all nodes share, once a leader has proposed one. Not a visible change: no revision, no hash.
    pub fn secret(&self) -> Option<ClusterSecret> {
        self.secret
    }

    /// Two leaders may each propose one: the first one counts.
    pub(super) fn put_secret(&mut self, secret: ClusterSecret) -> Result<Done, Rejection> {
        self.secret.get_or_insert(secret);
        Ok(Done::Applied)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Loader, Part};
    use super::*;
    use crate::{Command, Stamped};

    fn put(state: &mut State, bits: u128) {
        let command = Command::PutClusterSecret(ClusterSecret::new(bits));
        let applied = state.apply(&Stamped { wall_ms: 0, advance_ms: 0, command });
        assert_eq!((applied.outcome.result, applied.events.len()), (Ok(Done::Applied), 0));
    }

    #[test]
    fn the_first_secret_stays_and_changes_nothing_that_is_seen() {
        let mut state = State::new(10);
        let before = (state.revision(), state.hash());
        assert_eq!(state.secret(), None);
        put(&mut state, 7);
        put(&mut state, 8);
        assert_eq!(state.secret().map(ClusterSecret::bits), Some(7));
        assert_eq!((state.revision(), state.hash()), before);
    }

    #[test]
    fn a_snapshot_keeps_the_secret_and_no_word_shows_it() {
        let mut state = State::new(10);
        put(&mut state, 123_456_789);
        let mut loader = Loader::new(10);
        let parts: Vec<Part> = state.parts().collect();
        assert!(!format!("{parts:?}{state:?}").contains("123456789"));
        for part in parts {
            loader.add(part).unwrap();
        }
        assert_eq!(loader.finish().unwrap().secret(), state.secret());
    }
}
