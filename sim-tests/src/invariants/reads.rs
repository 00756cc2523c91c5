//! An answer shows exactly one revision, and one that is as fresh as was asked for: confirmed reads what anybody had
//! been told when they began, bounded ones what had been told so long before, and all what they named.

use super::{Invariant, Moment, Violation};
use crate::oracle::{Freshness, Read};
use rollcall_registry::raft::Role;

#[derive(Debug, Default)]
pub(super) struct Reads;

impl Invariant for Reads {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let newest = moment.chronicle.revision();
        let ready: Vec<Read> = {
            let mut ledger = moment.oracle.ledger();
            let all = std::mem::take(&mut ledger.reads);
            let (ready, later) = all.into_iter().partition(|read| read.revision <= newest);
            ledger.reads = later;
            ready
        };
        for read in ready {
            judge(moment, &read, out);
        }
    }

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if let Some(read) = moment.oracle.ledger().reads.first() {
            let seen = format!("{read:?}: no node ever showed that revision");
            out.push(Violation::new("an answer is one revision", seen));
        }
    }
}

fn judge(moment: &Moment<'_>, read: &Read, out: &mut Vec<Violation>) {
    if read.revision < read.floor {
        let name = match read.freshness {
            Freshness::Stale => "a stale read promises nothing",
            Freshness::Bounded(_) => "a bounded read is as fresh as its bound",
            Freshness::Linearizable => "a linearizable read shows what was acknowledged",
        };
        let seen = format!("{read:?}: {} had been told", read.floor);
        out.push(Violation::new(name, seen));
    }
    if read.revision < read.min_revision {
        let seen = format!("{read:?}: asked for {}", read.min_revision);
        out.push(Violation::new("a read shows the revision that it names", seen));
    }
    let follower = |node: &crate::cluster::NodeNow| {
        node.index == read.node && node.status.role == Role::Follower
    };
    if read.freshness == Freshness::Linearizable && moment.nodes.iter().any(follower) {
        moment.oracle.points.hit("a linearizable read was answered by a follower");
    }
    let newest = moment.chronicle.service_revision(&read.service, read.revision);
    let content = moment.chronicle.content(&read.service, read.service_revision);
    let differs = content.is_some_and(|content| *content != read.instances);
    if read.service_revision > read.revision || newest > read.service_revision || differs {
        let seen = format!("{read:?}: the service was at {newest} with {content:?}");
        out.push(Violation::new("an answer is one revision", seen));
    }
}
