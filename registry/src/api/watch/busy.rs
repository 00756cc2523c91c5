//! How busy the watched instances are. The figures have no revision, so no change of theirs wakes a watcher: they
//! travel with its bookmarks, the differences alone, and not more often than every 5 s.

use imbl::{OrdMap, ordmap::DiffItem};
use prost::Message as _;
use rollcall_core::{
    State,
    name::ServiceName,
    query::{Filter, fails_open},
    record::Record,
    signals::Utilization,
};
use rollcall_proto::{convert, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// One watcher is told this often at most, after the first time.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// A bookmark with so many bytes of figures takes no further service; a service has at most 2.7 MB of them.
const BYTES: usize = 1 << 20;

type ByGeneration = OrdMap<u64, Utilization>;

/// What one watcher was told.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// As all figures of the catalogue were; shares its memory.
    told: OrdMap<ServiceName, ByGeneration>,
    /// Of these all figures are to be told: their lists were sent since, or there was no room.
    touched: BTreeSet<ServiceName>,
    at: Option<Instant>,
}

impl Figures {
    /// Instances of this service were sent.
    pub(super) fn touch(&mut self, service: &ServiceName) {
        self.touched.insert(service.clone());
    }

    /// What the next bookmark tells of the services that are `watched`.
    pub(super) fn due(
        &mut self,
        state: &State,
        watched: impl Fn(&ServiceName) -> bool,
        filter: &Filter,
        now: Instant,
    ) -> Vec<v1::ServiceUtilization> {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < TELL_EVERY) {
            return Vec::new();
        }
        self.at = Some(now);
        let current = state.utilizations();
        let none = ByGeneration::new();
        // From what is compared: nothing where all is to be told.
        let mut since: BTreeMap<ServiceName, ByGeneration> = BTreeMap::new();
        for item in self.told.diff(current) {
            let (name, before) = match item {
                DiffItem::Add(name, _) => (name, &none),
                DiffItem::Remove(name, before) => (name, before),
                DiffItem::Update { old: (name, before), .. } => (name, before),
            };
            if watched(name) {
                since.insert(name.clone(), before.clone());
            }
        }
        let touched = std::mem::take(&mut self.touched);
        since.extend(touched.into_iter().map(|name| (name, none.clone())));
        self.told = current.clone();
        let (mut all, mut bytes) = (Vec::new(), 0);
        for (name, before) in since {
            if bytes >= BYTES {
                self.touched.insert(name);
                continue;
            }
            let instances = changed(state, &name, &before, filter);
            if instances.is_empty() {
                continue;
            }
            let service = Some(convert::service_name(&name));
            let one = v1::ServiceUtilization { service, instances };
            bytes += one.encoded_len();
            all.push(one);
        }
        all
    }
}

fn changed(
    state: &State,
    name: &ServiceName,
    before: &ByGeneration,
    filter: &Filter,
) -> Vec<v1::InstanceUtilization> {
    let none = ByGeneration::new();
    let now = state.utilizations().get(name).unwrap_or(&none);
    let opens = state.service(name).is_some_and(|service| fails_open(service));
    let told = |generation: u64, utilization: Option<Utilization>| {
        let record: &Record = state.by_generation(generation)?;
        (opens || filter.matches(record)).then(|| v1::InstanceUtilization {
            instance_id: record.name.id.to_string(),
            percent: utilization.map(Utilization::percent),
        })
    };
    let items = before.diff(now).filter_map(|item| match item {
        DiffItem::Add(generation, utilization) => told(*generation, Some(*utilization)),
        DiffItem::Update { new: (generation, utilization), .. } => {
            told(*generation, Some(*utilization))
        }
        DiffItem::Remove(generation, _) => told(*generation, None),
    });
    items.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_core::{
        Command, Stamped,
        command::{Deregister, Deregistration, Figure, Register, Registration, ReportSelf},
        instance::{Endpoint, Spec, Transport},
        name::{InstanceName, Label},
        record::Actor,
    };
    use std::sync::Arc;

    fn send(state: &mut State, command: Command) {
        state.apply(&Stamped { wall_ms: 1, advance_ms: 1, command }).outcome.result.unwrap();
    }

    fn register(state: &mut State, service: &str, id: &str, tag: &str, nonce: u128) {
        let endpoint = Endpoint {
            name: Label::parse("name", "http").unwrap(),
            address: "10.0.0.1:80".parse().unwrap(),
            transport: Transport::Tcp,
            app_protocol: "".into(),
        };
        let spec = Spec { tags: vec![tag.into()], ..Spec::new(vec![endpoint]).unwrap() };
        let item = Registration {
            name: InstanceName::parse("", service, id).unwrap(),
            spec: Arc::new(spec),
            nonce,
            held_generation: 0,
            expected_revision: None,
        };
        let (items, actor) = (vec![item], Actor::Owner("".into()));
        let register = Register { items, actor, request_id: None, address_limit: false };
        send(state, Command::Register(register));
    }

    fn say(state: &mut State, generation: u64, percent: Option<u32>) {
        let utilization = percent.and_then(Utilization::new);
        let (items, figures) = (Vec::new(), vec![Figure { generation, utilization }]);
        let report = ReportSelf { items, figures, actor: Actor::Owner("".into()) };
        send(state, Command::ReportSelf(report));
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::parse("", text).unwrap()
    }

    fn due(
        figures: &mut Figures,
        state: &State,
        filter: &Filter,
        now: Instant,
    ) -> Vec<(String, Option<u32>)> {
        let watched = |service: &ServiceName| *service == name("web");
        let told = figures.due(state, watched, filter, now).into_iter();
        told.flat_map(|one| one.instances).map(|one| (one.instance_id, one.percent)).collect()
    }

    fn of(id: &str, percent: Option<u32>) -> (String, Option<u32>) {
        (id.to_owned(), percent)
    }

    #[test]
    fn all_is_told_first_and_then_what_differs_not_more_often_than_every_5_seconds() {
        let (mut state, filter) = (State::new(10), Filter::default());
        for (service, id) in [("web", "a"), ("web", "b"), ("api", "x")] {
            register(&mut state, service, id, "", 1);
        }
        [1, 2, 3].into_iter().for_each(|generation| say(&mut state, generation, Some(50)));
        let (mut figures, start) = (Figures::default(), Instant::now());
        let first = due(&mut figures, &state, &filter, start);
        assert_eq!(first, [of("a", Some(50)), of("b", Some(50))]);
        say(&mut state, 1, Some(80));
        say(&mut state, 2, None);
        say(&mut state, 3, Some(80));
        assert_eq!(due(&mut figures, &state, &filter, start + Duration::from_millis(4_999)), []);
        let next = due(&mut figures, &state, &filter, start + TELL_EVERY);
        assert_eq!(next, [of("a", Some(80)), of("b", None)]);
        assert_eq!(due(&mut figures, &state, &filter, start + TELL_EVERY * 2), []);
        // The list was sent anew, perhaps with an instance that did not match before.
        figures.touch(&name("web"));
        assert_eq!(due(&mut figures, &state, &filter, start + TELL_EVERY * 3), [of("a", Some(80))]);
    }

    #[test]
    fn neither_who_does_not_match_nor_who_is_gone_is_told_of() {
        let mut state = State::new(10);
        register(&mut state, "web", "a", "blue", 1);
        register(&mut state, "web", "b", "red", 1);
        [1, 2].into_iter().for_each(|generation| say(&mut state, generation, Some(50)));
        let filter = Filter { tags: vec!["red".into()], ..Filter::default() };
        let (mut figures, start) = (Figures::default(), Instant::now());
        assert_eq!(due(&mut figures, &state, &filter, start), [of("b", Some(50))]);
        let item = Deregistration {
            name: InstanceName::parse("", "web", "b").unwrap(),
            generation: 0,
            allow_missing: false,
            expected_revision: None,
        };
        let (items, actor) = (vec![item], Actor::Operator("".into()));
        let command = Deregister { items, actor, request_id: None, evidence: "".into() };
        send(&mut state, Command::Deregister(command));
        assert_eq!(due(&mut figures, &state, &filter, start + TELL_EVERY), []);
    }

    #[test]
    fn a_bookmark_that_is_full_leaves_the_other_services_to_a_later_one() {
        let mut state = State::new(10);
        let mut generation = 0;
        // 1,000 instances with long names are about 130 KB.
        for service in 0..10 {
            for i in 0..1_000 {
                let id = format!("{i:0>120}");
                register(&mut state, &format!("s{service}"), &id, "", 1);
                generation += 1;
                say(&mut state, generation, Some(50));
            }
        }
        let (mut figures, mut now) = (Figures::default(), Instant::now());
        let mut told = Vec::new();
        for _ in 0..3 {
            let part = figures.due(&state, |_| true, &Filter::default(), now);
            let bytes: usize = part.iter().map(prost::Message::encoded_len).sum();
            assert!(bytes <= BYTES + 140_000, "{bytes} bytes");
            told.push(part.len());
            now += TELL_EVERY;
        }
        assert_eq!((told.iter().sum::<usize>(), told[2]), (10, 0), "{told:?}");
        assert!(told[0] < 10, "{told:?}");
    }
}
