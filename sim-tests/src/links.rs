//! The links between machines under several faults at a time: what one fault heals, another may still keep broken.

use std::{collections::BTreeMap, time::Duration};
use turmoil::Sim;

#[derive(Debug, Default, Clone, Copy)]
struct Link {
    /// Faults that let nothing through in this direction.
    blocked: u32,
    /// Faults that hold everything back, in both directions.
    held: u32,
}

/// Counts the faults on each direction of each link.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<(String, String), Link>);

impl Links {
    fn link(&mut self, from: &str, to: &str) -> &mut Link {
        self.0.entry((from.to_owned(), to.to_owned())).or_default()
    }

    /// Nothing passes from one machine to the other until as many [`Links::unblock`].
    pub fn block(&mut self, sim: &mut Sim<'_>, from: &str, to: &str) {
        self.link(from, to).blocked += 1;
        self.set(sim, from, to);
    }

    /// One fault less that blocks.
    pub fn unblock(&mut self, sim: &mut Sim<'_>, from: &str, to: &str) {
        let link = self.link(from, to);
        link.blocked = link.blocked.saturating_sub(1);
        self.set(sim, from, to);
    }

    /// Everything between two machines waits until as many [`Links::release`].
    pub fn hold(&mut self, sim: &mut Sim<'_>, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            self.link(from, to).held += 1;
        }
        self.set(sim, one, other);
    }

    /// One fault less that holds.
    pub fn release(&mut self, sim: &mut Sim<'_>, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let link = self.link(from, to);
            link.held = link.held.saturating_sub(1);
        }
        self.set(sim, one, other);
    }

    /// Longest way of a message between two machines.
    pub fn slow(&self, sim: &mut Sim<'_>, one: &str, other: &str, longest: Duration) {
        sim.set_link_max_message_latency(one, other, longest);
    }

    /// Brings both directions of a link into the state that the faults on it ask for.
    fn set(&mut self, sim: &mut Sim<'_>, one: &str, other: &str) {
        let (there, back) = (*self.link(one, other), *self.link(other, one));
        if there.held > 0 {
            sim.hold(one, other);
        } else {
            sim.release(one, other);
        }
        for (link, from, to) in [(there, one, other), (back, other, one)] {
            if link.blocked > 0 {
                sim.partition_oneway(from, to);
            } else if link.held == 0 {
                sim.repair_oneway(from, to);
            }
        }
    }
}
