//! What kind of reply a question will get, told before anything is searched: the rate limit is asked first, and a flood
//! costs no look-up.
//!
//! What is counted together has a name of which there are only so many: whatever stands before a service (tags, ports,
//! ids) or behind it (zones) can be made up, and counts as that service.

use crate::{
    instances::service_name,
    lookup::Lookup,
    question::{Question, Target},
    rate::Class,
    wire::kind,
};
use rollcall_core::name::InstanceId;
use xxhash_rust::xxh3::Xxh3;

impl Lookup<'_> {
    /// The class of the reply. Cheap, however large a service is.
    pub(crate) fn class(&self, question: &Question<'_>) -> Class {
        match question {
            Question::Nothing => Class::Unknown,
            Question::Apex | Question::Empty => self.counted(b"zone", "", ""),
            Question::Service(target, _) | Question::WithinService(target) => self.of(target, None),
            Question::Instance(target, id) => self.of(target, Some(id)),
            Question::Node(name) => {
                let known = self.catalog.nodes.iter().any(|node| node.name.as_str() == *name);
                self.counted_if(known, b"node")
            }
            Question::Address(_) => self.counted(b"addr", "", ""),
            Question::ServiceTypes(_) => self.counted_if(self.settings.browse, b"browse"),
            Question::Reverse(ip) => {
                let (nodes, state) = (self.catalog.nodes, self.catalog.state);
                let known = nodes.iter().any(|node| node.addresses.contains(ip))
                    || state.at_address(*ip).next().is_some();
                self.counted_if(known, b"reverse")
            }
        }
    }

    fn of(&self, target: &Target<'_>, id: Option<&str>) -> Class {
        let Some(name) = service_name(target) else { return Class::Unknown };
        let Some(service) = self.catalog.state.service(&name) else { return Class::Unknown };
        let known = |id| InstanceId::parse(id).is_ok_and(|id| service.instances.contains_key(&id));
        if id.is_some_and(|id| !known(id)) {
            return Class::Unknown;
        }
        self.counted(b"service", name.namespace.as_str(), name.service.as_str())
    }

    fn counted_if(&self, known: bool, word: &[u8]) -> Class {
        if known { self.counted(word, "", "") } else { Class::Unknown }
    }

    fn counted(&self, word: &[u8], namespace: &str, service: &str) -> Class {
        // The others, which can be made up too, count together.
        let kind = if kind::OF_SERVICES.contains(&self.kind) { self.kind } else { 0 };
        let mut hash = Xxh3::new();
        hash.update(&kind.to_be_bytes());
        for part in [word, namespace.as_bytes(), service.as_bytes()] {
            hash.update(part);
            hash.update(b".");
        }
        Class::Known(hash.digest())
    }
}
