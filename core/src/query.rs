//! Which instances an answer holds, and in which order. Defined here once, for gRPC, DNS and every later surface.

use crate::{
    instance::Locality,
    record::{AdminState, HealthStatus, Record},
    state::Service,
};
use std::sync::Arc;

/// Which health an answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum HealthFilter {
    /// ENABLED and (HEALTHY or DEGRADED).
    #[default]
    Routable,
    /// ENABLED and HEALTHY.
    Healthy,
    /// Everything that is registered.
    Any,
}

/// What a reader asks for. Equal filters share one encoded answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Filter {
    /// Which health.
    pub health: HealthFilter,
    /// All of these tags.
    pub tags: Vec<Arc<str>>,
    /// All of these metadata pairs.
    pub metadata: Vec<(Arc<str>, Arc<str>)>,
    /// Only instances with an endpoint of this name; empty = any.
    pub endpoint: Arc<str>,
}

impl Filter {
    /// Whether the record belongs to the answer.
    pub fn matches(&self, record: &Record) -> bool {
        let healthy = match self.health {
            HealthFilter::Routable => record.routable(),
            HealthFilter::Healthy => {
                record.health == HealthStatus::Healthy
                    && record.admin_state() == AdminState::Enabled
            }
            HealthFilter::Any => true,
        };
        healthy && self.selects(record)
    }

    /// Whether the record belongs to the answer as far as tags, metadata and endpoint go.
    pub fn selects(&self, record: &Record) -> bool {
        let spec = &record.spec;
        self.tags.iter().all(|tag| spec.has_tag(tag))
            && self.metadata.iter().all(|(key, value)| spec.metadata(key) == Some(value))
            && (self.endpoint.is_empty() || spec.endpoint(&self.endpoint).is_some())
    }
}

/// The instances of an answer.
#[derive(Debug, Clone)]
pub struct Selection {
    /// In order of instance id.
    pub records: Vec<Arc<Record>>,
    /// Too few were routable: the answer holds all that are not in maintenance, with their true statuses.
    pub fail_open: bool,
}

/// Selects from a service, in order of instance id.
pub fn select(service: &Service, filter: &Filter) -> Selection {
    if filter.health != HealthFilter::Any && fails_open(service) {
        let open = |record: &&Arc<Record>| {
            record.admin_state() != AdminState::Maintenance && filter.selects(record)
        };
        let records = service.instances.values().filter(open).cloned().collect();
        return Selection { records, fail_open: true };
    }
    let records = service.instances.values().filter(|r| filter.matches(r)).cloned().collect();
    Selection { records, fail_open: false }
}

/// Whether the share of routable instances is below the policy's `fail_open_below`.
pub fn fails_open(service: &Service) -> bool {
    let Some(below) = service.policy.as_ref().and_then(|policy| policy.fail_open_below) else {
        return false;
    };
    let candidates =
        || service.instances.values().filter(|record| record.admin_state() == AdminState::Enabled);
    let all = candidates().count();
    let routable = candidates().filter(|record| record.routable()).count();
    #[expect(clippy::cast_precision_loss, reason = "a service has at most 20,000 instances")]
    let share = routable as f64 / all.max(1) as f64;
    all > 0 && share < below
}

/// Orders by distance from the caller, then by instance id.
pub fn nearest_first(records: &mut [Arc<Record>], caller: &Locality) {
    records.sort_by(|a, b| {
        let distance = |record: &Record| caller.distance(&record.spec.locality);
        distance(a).cmp(&distance(b)).then_with(|| a.name.id.cmp(&b.name.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command, Stamped, State,
        command::{PutServicePolicy, Register, Registration, SetAdminState},
        instance::{Endpoint, Spec, Transport},
        name::{InstanceName, Label, ServiceName},
        policy::Policy,
        record::Actor,
    };

    const OPERATOR: fn() -> Actor = || Actor::Operator("ann".into());

    fn send(state: &mut State, command: Command) {
        state.apply(&Stamped { wall_ms: 0, advance_ms: 0, command }).outcome.result.unwrap();
    }

    fn zone(zone: &str) -> Locality {
        Locality { zone: Some(Label::parse("zone", zone).unwrap()), ..Locality::default() }
    }

    /// Instances `a` to `d` of `web`, in zones 1, 2, 1, 2; `a` and `b` carry a tag and a pair.
    fn web() -> State {
        let mut state = State::new(100);
        let items = ["a", "b", "c", "d"].iter().enumerate().map(|(i, id)| {
            let endpoint = Endpoint {
                name: Label::parse("name", if i < 3 { "http" } else { "grpc" }).unwrap(),
                address: format!("10.0.0.{}:80", i + 1).parse().unwrap(),
                transport: Transport::Tcp,
                app_protocol: "".into(),
            };
            let marked = i < 2;
            let spec = Spec {
                locality: zone(if i % 2 == 0 { "1" } else { "2" }),
                tags: if marked { vec!["canary".into()] } else { vec![] },
                metadata: if marked { vec![("team".into(), "x".into())] } else { vec![] },
                ..Spec::new(vec![endpoint]).unwrap()
            };
            Registration {
                name: InstanceName::parse("", "web", id).unwrap(),
                spec: Arc::new(spec),
                nonce: 1,
                held_generation: 0,
                expected_revision: None,
            }
        });
        let items = items.collect();
        let actor = OPERATOR();
        let register = Register { items, actor, request_id: None, address_limit: true };
        send(&mut state, Command::Register(register));
        state
    }

    fn set(state: &mut State, id: &str, to: AdminState) {
        let set = SetAdminState {
            name: InstanceName::parse("", "web", id).unwrap(),
            generation: 0,
            state: to,
            actor: OPERATOR(),
            reason: "".into(),
            expire_after: None,
            request_id: None,
            expected_revision: None,
        };
        send(state, Command::SetAdminState(set));
    }

    fn selected(state: &State, filter: &Filter) -> (String, bool) {
        let service = state.service(&ServiceName::parse("", "web").unwrap()).unwrap();
        let selection = select(service, filter);
        let ids = selection.records.iter().map(|record| record.name.id.as_str());
        (ids.collect::<Vec<_>>().join(" "), selection.fail_open)
    }

    #[test]
    fn an_answer_holds_what_has_every_tag_every_pair_and_the_endpoint() {
        let state = web();
        let filter = Filter::default;
        let cases = [
            (filter(), "a b c d"),
            (Filter { tags: vec!["canary".into()], ..filter() }, "a b"),
            (Filter { tags: vec!["canary".into(), "x".into()], ..filter() }, ""),
            (Filter { metadata: vec![("team".into(), "x".into())], ..filter() }, "a b"),
            (Filter { metadata: vec![("team".into(), "y".into())], ..filter() }, ""),
            (Filter { endpoint: "grpc".into(), ..filter() }, "d"),
        ];
        for (filter, ids) in cases {
            assert_eq!(selected(&state, &filter), (ids.to_owned(), false), "{filter:?}");
        }
    }

    #[test]
    fn what_is_drained_or_in_maintenance_is_only_in_an_answer_that_asks_for_all() {
        let mut state = web();
        set(&mut state, "a", AdminState::Draining);
        set(&mut state, "b", AdminState::Maintenance);
        assert_eq!(selected(&state, &Filter::default()).0, "c d");
        let all = Filter { health: HealthFilter::Any, ..Filter::default() };
        assert_eq!(selected(&state, &all).0, "a b c d");
    }

    #[test]
    fn an_answer_fails_open_only_below_the_share_of_the_policy() {
        let mut state = web();
        let policy = Policy { fail_open_below: Some(0.5), ..Policy::default() };
        let service = ServiceName::parse("", "web").unwrap();
        let put = PutServicePolicy { service, policy, actor: OPERATOR(), request_id: None };
        send(&mut state, Command::PutServicePolicy(put));
        let expire = |state: &mut State, generation| {
            let evidence = "".into();
            let items = vec![crate::command::Expiry {
                generation,
                lease_epoch: 1,
                overdue: false,
                evidence,
            }];
            let expire = crate::command::ExpireLeases { items, actor: OPERATOR() };
            send(state, Command::ExpireLeases(expire));
        };
        expire(&mut state, 1);
        expire(&mut state, 2);
        assert_eq!(selected(&state, &Filter::default()), ("c d".into(), false));
        set(&mut state, "d", AdminState::Maintenance);
        expire(&mut state, 3);
        // None of three: everything that is not in maintenance, with its true status, still filtered.
        assert_eq!(selected(&state, &Filter::default()), ("a b c".into(), true));
        let canary = Filter { tags: vec!["canary".into()], ..Filter::default() };
        assert_eq!(selected(&state, &canary), ("a b".into(), true));
        let all = Filter { health: HealthFilter::Any, ..Filter::default() };
        assert_eq!(selected(&state, &all), ("a b c d".into(), false));
    }

    #[test]
    fn the_nearest_come_first_and_equals_in_order_of_id() {
        let state = web();
        let service = state.service(&ServiceName::parse("", "web").unwrap()).unwrap();
        let mut records = select(service, &Filter::default()).records;
        nearest_first(&mut records, &zone("2"));
        let ids: Vec<&str> = records.iter().map(|record| record.name.id.as_str()).collect();
        assert_eq!(ids, ["b", "d", "a", "c"]);
    }
}
