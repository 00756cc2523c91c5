//! How far the state of this node can be trusted, and where the nodes of the cluster are: looked at by one task, so
//! that an answer need not ask.

use super::desk::{Desk, Surroundings};
use crate::{host::Host, raft::Replica};
use rollcall_core::name::Label;
use rollcall_dns::{Node, Standing};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often it is looked at while it can be trusted, and while not.
const LOOK: Duration = Duration::from_millis(100);
const ANXIOUS_LOOK: Duration = Duration::from_millis(10);

/// Keeps a desk told.
#[derive(Debug)]
pub(super) struct Trust {
    replica: Replica,
    host: Host,
    desk: Arc<Desk>,
    /// There was nothing on the disk: what is seen may be the beginning of a catalogue, until it was in step once.
    began_empty: bool,
}

impl Trust {
    /// Must be made when what was on the disk is visible, and nothing else.
    pub(super) fn new(replica: Replica, host: Host, desk: Arc<Desk>) -> Self {
        let began_empty = desk.view().load().applied_index == 0;
        Self { replica, host, desk, began_empty }
    }

    /// Until it shall stop.
    pub(super) async fn keep(self, stale_after: Duration, stop: CancellationToken) {
        loop {
            let standing = self.standing(stale_after);
            let now = Surroundings { nodes: self.nodes(), standing };
            let known = self.desk.surroundings();
            if known.standing != standing {
                tracing::info!(?standing, "DNS answers");
            }
            if *known != now {
                self.desk.surround(now);
            }
            let pause = if standing == Standing::Current { LOOK } else { ANXIOUS_LOOK };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn standing(&self, stale_after: Duration) -> Standing {
        // Asked first: what is seen then is at least as new.
        let fresh = self.replica.fresh_as_of();
        let seen = self.desk.view().load();
        let age = fresh.map(|at| self.host.clock.monotonic().saturating_sub(at));
        judge(self.began_empty, seen.applied_index, age, stale_after)
    }

    fn nodes(&self) -> Vec<Node> {
        let members = self.replica.members();
        let announced = members.iter().map(|(id, member)| (*id, &*member.name, member.dns.ip()));
        named(announced)
    }
}

/// `age`: how long ago the node was in step with a leader; `None`: never since its start.
fn judge(
    began_empty: bool,
    applied: u64,
    age: Option<Duration>,
    stale_after: Duration,
) -> Standing {
    match age {
        _ if applied == 0 => Standing::Unready,
        Some(age) if age <= stale_after => Standing::Current,
        Some(_) => Standing::Stale,
        None if began_empty => Standing::Unready,
        None => Standing::Stale,
    }
}

/// The nodes in order of name: the name that the operator gave where it is a DNS label and no other node has it, else
/// the id in hex.
fn named<'a>(members: impl Iterator<Item = (u64, &'a str, IpAddr)> + Clone) -> Vec<Node> {
    let label = |text: &str| Label::parse("name", text).ok();
    let mut uses = BTreeMap::<Label, usize>::new();
    for label in members.clone().filter_map(|(_, name, _)| label(name)) {
        *uses.entry(label).or_default() += 1;
    }
    let node = |(id, name, address): (u64, &str, IpAddr)| {
        let unique = label(name).filter(|label| uses.get(label) == Some(&1));
        let name = unique.or_else(|| label(&format!("{id:016x}")))?;
        Some(Node { name, addresses: vec![address] })
    };
    let mut nodes: Vec<Node> = members.filter_map(node).collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_began_empty_answers_once_it_was_in_step_and_never_from_half_a_catalogue() {
        let [second, long] = [Duration::from_secs(1), Duration::from_secs(9)];
        let limit = Duration::from_secs(2);
        for (began_empty, applied, age, expected) in [
            (true, 0, None, Standing::Unready),
            (true, 700, None, Standing::Unready),
            (true, 700, Some(second), Standing::Current),
            (true, 700, Some(long), Standing::Stale),
            (true, 0, Some(second), Standing::Unready),
            (false, 700, None, Standing::Stale),
            (false, 700, Some(second), Standing::Current),
        ] {
            let found = judge(began_empty, applied, age, limit);
            assert_eq!(found, expected, "{began_empty} {applied} {age:?}");
        }
    }

    #[test]
    fn a_node_bears_its_name_where_it_can_and_its_id_where_not() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let members = [
            (1, "b", ip),
            (2, "twice", ip),
            (3, "twice", ip),
            (4, "host.example", ip),
            (5, "A", ip),
        ];
        let names: Vec<String> =
            named(members.into_iter()).iter().map(|node| node.name.as_str().to_owned()).collect();
        let hex = |id: u64| format!("{id:016x}");
        assert_eq!(names, [hex(2), hex(3), hex(4), "a".into(), "b".into()]);
    }
}
