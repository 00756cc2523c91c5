//! Who has an address: PTR records for the configured ranges.

use crate::{
    catalog::Node,
    instances::label_of,
    lookup::{Found, Lookup, Row},
    wire::{kind, label},
};
use rollcall_core::{name::Label, record::Record};
use std::net::IpAddr;

/// Most names of one address.
const NAMES_MAX: usize = 16;
/// Longest name (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;

impl Lookup<'_> {
    /// Nodes first, then instances in order of their registration, whatever their health: it is still their address.
    pub(crate) fn reverse(&self, ip: IpAddr) -> Found {
        let nodes = self.catalog.nodes.iter().filter(|node| node.addresses.contains(&ip));
        let nodes = nodes.map(|node: &Node| self.node_name(&node.name));
        let instances = self.catalog.state.at_address(ip).map(|record| self.instance_name(record));
        let names = nodes.chain(instances).filter(|name| name.len() <= NAME_MAX);
        let mut names: Vec<Vec<u8>> = names.take(NAMES_MAX).collect();
        // Instances whose ids cannot stand in a name share that of their service.
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        match self.kind {
            _ if names.is_empty() => Found::Unknown,
            kind::PTR => self.rows(names.into_iter().map(Row::from).collect(), self.settings.ttl),
            kind::ANY => self.any(),
            _ => Found::Empty,
        }
    }

    /// `<id>.inst.<service>.service`, or the service alone where the id cannot stand in a name.
    fn instance_name(&self, record: &Record) -> Vec<u8> {
        let service = &record.name.service;
        let mut name = Vec::new();
        if let Some(id) = label_of(&record.name.id) {
            name.extend(label(id));
            name.extend(label("inst"));
        }
        name.extend(label(service.service.as_str()));
        name.extend(label("service"));
        if service.namespace != Label::default_namespace() {
            name.extend(label(service.namespace.as_str()));
            name.extend(label("ns"));
        }
        name.extend(self.domain.wire());
        name
    }
}
