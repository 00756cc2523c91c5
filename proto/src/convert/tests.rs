//! Each wrong field is named by its path; what is right comes through whole.

use super::*;
use crate::{stored::arbitrary, v1};
use proptest::prelude::*;
use prost::Message as _;
use rollcall_core::{
    State,
    command::{Command, ProtectionChange, Stamped},
    name::{Label, ServiceName},
    query::{Filter, HealthFilter},
    record::{Actor, AdminState, Reason, Scope},
    signals::Utilization,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const ADMISSION: Admission =
    Admission { default_ttl: Duration::from_secs(10), address_limit: true };

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn good_endpoint() -> v1::Endpoint {
    v1::Endpoint {
        name: "http".into(),
        host: "10.0.0.1".into(),
        port: 80,
        ..v1::Endpoint::default()
    }
}

fn good_name() -> v1::InstanceName {
    v1::InstanceName { namespace: String::new(), service: "Web".into(), instance_id: "a".into() }
}

fn good_registration() -> v1::Registration {
    v1::Registration {
        name: Some(good_name()),
        spec: Some(v1::InstanceSpec { endpoints: vec![good_endpoint()], ..Default::default() }),
        owner_nonce: vec![7; 16],
        held_generation: 0,
        expected_revision: None,
    }
}

fn good_register() -> v1::RegisterRequest {
    v1::RegisterRequest { items: vec![good_registration()], request_id: "r".into() }
}

fn fields<T: std::fmt::Debug>(result: Result<T, Refused>) -> Vec<String> {
    let Refused(found) = result.expect_err("the request is wrong");
    found.into_iter().map(|invalid| invalid.field).collect()
}

/// What is wrong with a registration whose only item was spoilt.
fn spoilt(spoil: impl FnOnce(&mut v1::Registration)) -> Vec<String> {
    let mut request = good_register();
    spoil(&mut request.items[0]);
    fields(register(request, "", ADMISSION))
}

fn spoilt_spec(spoil: impl FnOnce(&mut v1::InstanceSpec)) -> Vec<String> {
    spoilt(|item| spoil(item.spec.as_mut().expect("it has one")))
}

#[test]
fn a_good_registration_gets_the_defaults() {
    let register = register(good_register(), "10.0.0.9:5", ADMISSION).unwrap();
    let item = &register.items[0];
    assert_eq!(item.name.to_string(), "web/a");
    assert_eq!(item.spec.weight, 100);
    assert_eq!(item.spec.ttl.unwrap().duration(), Duration::from_secs(10));
    assert_eq!(item.nonce, u128::from_be_bytes([7; 16]));
    assert_eq!(register.actor, Actor::Owner("10.0.0.9:5".into()));
    assert_eq!(register.request_id.unwrap().as_str(), "r");
    assert!(register.address_limit);
}

#[test]
fn an_unset_lease_a_lease_of_nothing_and_no_lease_are_three_things() {
    let read = |spec: v1::InstanceSpec| {
        let endpoints = vec![good_endpoint()];
        super::spec(v1::InstanceSpec { endpoints, ..spec }, Duration::from_secs(7))
    };
    let unset = read(v1::InstanceSpec::default()).unwrap();
    assert_eq!(unset.ttl.unwrap().duration(), Duration::from_secs(7));
    let none = read(v1::InstanceSpec { persistent: true, ..Default::default() }).unwrap();
    assert_eq!(none.ttl, None);
    let nothing = read(v1::InstanceSpec { ttl: seconds(0), ..Default::default() });
    assert_eq!(fields(nothing), ["ttl"]);
    let both = v1::InstanceSpec { ttl: seconds(5), persistent: true, ..Default::default() };
    assert_eq!(fields(read(both)), ["ttl"]);
}

#[test]
fn every_limit_of_a_registration_names_its_path() {
    let long = |n: usize| "x".repeat(n);
    assert_eq!(spoilt(|i| i.name = None), ["items[0].name"]);
    assert_eq!(spoilt(|i| i.spec = None), ["items[0].spec"]);
    for length in [0, 15, 17, 32] {
        assert_eq!(spoilt(|i| i.owner_nonce = vec![1; length]), ["items[0].owner_nonce"]);
    }
    let name = |spoil: &dyn Fn(&mut v1::InstanceName)| {
        let mut name = good_name();
        spoil(&mut name);
        spoilt(|i| i.name = Some(name))
    };
    for service in ["", "a.b", "-a", "a_b", "ä", &long(64)] {
        assert_eq!(name(&|n| n.service = service.into()), ["items[0].name.service"]);
    }
    assert_eq!(name(&|n| n.namespace = "a b".into()), ["items[0].name.namespace"]);
    for id in ["", "a/b", "a\n", &long(129)] {
        assert_eq!(name(&|n| n.instance_id = id.into()), ["items[0].name.instance_id"]);
    }
    assert_eq!(spoilt_spec(|s| s.weight = Some(65_536)), ["items[0].spec.weight"]);
    assert_eq!(spoilt_spec(|s| s.priority = 65_536), ["items[0].spec.priority"]);
    assert_eq!(spoilt_spec(|s| s.version = long(64)), ["items[0].spec.version"]);
    assert_eq!(spoilt_spec(|s| s.version = "1\u{7}".into()), ["items[0].spec.version"]);
    let tags = |tags: Vec<String>| spoilt_spec(|s| s.tags = tags);
    assert_eq!(tags((0..33).map(|i| format!("t{i}")).collect()), ["items[0].spec.tags"]);
    assert_eq!(tags(vec!["a".into(), String::new()]), ["items[0].spec.tags[1]"]);
    assert_eq!(tags(vec![long(129)]), ["items[0].spec.tags[0]"]);
    assert_eq!(tags(vec!["a\u{1b}[2J".into()]), ["items[0].spec.tags[0]"]);
    let pairs = |pairs: BTreeMap<String, String>| spoilt_spec(|s| s.metadata = pairs);
    let pair = |key: &str, value: String| pairs([(key.to_owned(), value)].into());
    assert_eq!(
        pairs((0..65).map(|i| (format!("k{i}"), String::new())).collect()),
        ["items[0].spec.metadata"]
    );
    assert_eq!(pair("", String::new()), ["items[0].spec.metadata[\"\"].key"]);
    assert_eq!(pair("k", long(513)), ["items[0].spec.metadata[\"k\"].value"]);
    assert_eq!(pair("k", "\0".into()), ["items[0].spec.metadata[\"k\"].value"]);
    assert_eq!(pair(&long(129), String::new())[0].matches(".key").count(), 1);
    let large = (0..20).map(|i| (format!("k{i}"), long(500))).collect();
    assert_eq!(pairs(large), ["items[0].spec"]);
    for wrong in [seconds(-1), seconds(0), seconds(86_401)] {
        assert_eq!(spoilt_spec(|s| s.ttl = wrong), ["items[0].spec.ttl"]);
    }
    for wrong in [seconds(-1), seconds(86_401), seconds(i64::MAX)] {
        assert_eq!(spoilt_spec(|s| s.evict_after = wrong), ["items[0].spec.evict_after"]);
    }
    let odd = Some(prost_types::Duration { seconds: 1, nanos: 1_000_000_000 });
    assert_eq!(spoilt_spec(|s| s.ttl = odd), ["items[0].spec.ttl"]);
    let locality = v1::Locality { zone: "a b".into(), ..Default::default() };
    assert_eq!(spoilt_spec(|s| s.locality = Some(locality)), ["items[0].spec.locality.zone"]);
}

#[test]
fn every_limit_of_an_endpoint_names_its_path() {
    let endpoint = |spoil: &dyn Fn(&mut v1::Endpoint)| {
        let mut endpoint = good_endpoint();
        spoil(&mut endpoint);
        spoilt_spec(|s| s.endpoints = vec![endpoint])
    };
    for host in ["", "localhost", "example.org", "10.0.0.1:80", "[::1]", "fe80::1%eth0", "1.2.3"] {
        assert_eq!(endpoint(&|e| e.host = host.into()), ["items[0].spec.endpoints[0].host"]);
    }
    // Forms that other programs read as 169.254.169.254 or 127.0.0.1.
    for host in ["0xA9FEA9FE", "2852039166", "0251.0376.0251.0376", "169.254.43518", "127.1"] {
        assert_eq!(endpoint(&|e| e.host = host.into()), ["items[0].spec.endpoints[0].host"]);
    }
    for host in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fe80::1"] {
        assert_eq!(endpoint(&|e| e.host = host.into()), ["items[0].spec.endpoints[0].host"]);
    }
    for host in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
        assert_eq!(endpoint(&|e| e.host = host.into()), ["items[0].spec.endpoints[0].host"]);
    }
    for port in [0, 65_536, 70_000, u32::MAX] {
        assert_eq!(endpoint(&|e| e.port = port), ["items[0].spec.endpoints[0].port"]);
    }
    assert_eq!(endpoint(&|e| e.name = "a.b".into()), ["items[0].spec.endpoints[0].name"]);
    assert_eq!(endpoint(&|e| e.transport = 9), ["items[0].spec.endpoints[0].transport"]);
    let path = ["items[0].spec.endpoints[0].app_protocol"];
    assert_eq!(endpoint(&|e| e.app_protocol = "x".repeat(64)), path);
    assert_eq!(spoilt_spec(|s| s.endpoints.clear()), ["items[0].spec.endpoints"]);
    assert_eq!(
        spoilt_spec(|s| s.endpoints = vec![good_endpoint(); 17]),
        ["items[0].spec.endpoints"]
    );
    assert_eq!(
        spoilt_spec(|s| s.endpoints = vec![good_endpoint(); 2]),
        ["items[0].spec.endpoints[1].name"]
    );
}

#[test]
fn all_that_is_wrong_is_told_but_no_more_than_sixteen() {
    let mut request = good_register();
    request.request_id = "x".repeat(65);
    request.items.push(v1::Registration { owner_nonce: Vec::new(), ..good_registration() });
    request.items[0].name = None;
    let found = fields(register(request.clone(), "", ADMISSION));
    assert_eq!(found, ["request_id", "items[0].name", "items[1].owner_nonce"]);
    request.items = vec![v1::Registration::default(); 1_000];
    assert_eq!(fields(register(request.clone(), "", ADMISSION)).len(), 16);
    request.request_id.clear();
    for count in [0, 1_001] {
        request.items = vec![good_registration(); count];
        assert_eq!(fields(register(request.clone(), "", ADMISSION)), ["items"]);
    }
}

#[test]
fn a_deregistration_tells_the_owner_from_the_operator() {
    let request = |role: i32| v1::DeregisterRequest {
        items: vec![v1::Deregistration { name: Some(good_name()), ..Default::default() }],
        reason: "drained".into(),
        role,
        ..Default::default()
    };
    let actor = |role: v1::Role| deregister(request(role.into()), "x").unwrap().actor;
    assert_eq!(actor(v1::Role::Unspecified), Actor::Owner("x".into()));
    assert_eq!(actor(v1::Role::Owner), Actor::Owner("x".into()));
    assert_eq!(actor(v1::Role::Operator), Actor::Operator("x".into()));
    assert_eq!(fields(deregister(request(3), "x")), ["role"]);
    let wrong = v1::DeregisterRequest {
        items: vec![v1::Deregistration::default()],
        reason: "x".repeat(257),
        ..Default::default()
    };
    assert_eq!(fields(deregister(wrong, "")), ["reason", "items[0].name"]);
    assert_eq!(fields(deregister(v1::DeregisterRequest::default(), "")), ["items"]);
}

#[test]
fn an_admin_state_must_be_said_and_may_end_within_a_year() {
    let request = |state: v1::AdminState, expire_after| v1::SetAdminStateRequest {
        name: Some(good_name()),
        state: state.into(),
        expire_after,
        role: v1::Role::Operator.into(),
        ..Default::default()
    };
    use v1::AdminState as Wire;
    let set = set_admin_state(request(Wire::Draining, seconds(60)), "x").unwrap();
    assert_eq!(
        (set.state, set.expire_after),
        (AdminState::Draining, Some(Duration::from_secs(60)))
    );
    assert_eq!(fields(set_admin_state(request(Wire::Unspecified, None), "x")), ["state"]);
    for wrong in [seconds(0), seconds(-5), seconds(367 * 86_400)] {
        let result = set_admin_state(request(Wire::Maintenance, wrong), "x");
        assert_eq!(fields(result), ["expire_after"]);
    }
    let ends = set_admin_state(request(Wire::Enabled, seconds(60)), "x");
    assert_eq!(fields(ends), ["expire_after"]);
}

#[test]
fn every_part_of_a_policy_names_its_path() {
    let service = Some(v1::ServiceName { namespace: String::new(), service: "web".into() });
    let put = |policy: v1::ServicePolicy| {
        let service = service.clone();
        let request =
            v1::PutServicePolicyRequest { service, policy: Some(policy), ..Default::default() };
        put_policy(request, "x")
    };
    for share in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
        let open = v1::ServicePolicy { fail_open_below: Some(share), ..Default::default() };
        assert_eq!(fields(put(open)), ["policy.fail_open_below"]);
        let share = v1::ServicePolicy { protection_threshold: Some(share), ..Default::default() };
        assert_eq!(fields(put(share)), ["policy.protection_threshold"]);
    }
    let dns = |dns_ttl| v1::ServicePolicy { dns_ttl, ..Default::default() };
    assert_eq!(fields(put(dns(seconds(3_601)))), ["policy.dns_ttl"]);
    assert_eq!(fields(put(dns(seconds(-1)))), ["policy.dns_ttl"]);
    let evict = v1::ServicePolicy { evict_after: seconds(86_401), ..Default::default() };
    assert_eq!(fields(put(evict)), ["policy.evict_after"]);
    let unhealthy =
        v1::ServicePolicy { evict_unhealthy_after: seconds(86_401), ..Default::default() };
    assert_eq!(fields(put(unhealthy)), ["policy.evict_unhealthy_after"]);
    let nothing = put_policy(v1::PutServicePolicyRequest::default(), "");
    assert_eq!(fields(nothing), ["service", "policy"]);
    let nothing = delete_policy(v1::DeleteServicePolicyRequest::default(), "");
    assert_eq!(fields(nothing), ["service"]);
}

#[test]
fn a_release_names_a_scope() {
    let release = |scope: Option<v1::scope::Scope>| {
        let scope = Some(v1::Scope { scope });
        release_protection(v1::ReleaseProtectionRequest { scope, ..Default::default() }, "x")
    };
    let set = release(Some(v1::scope::Scope::Cluster(true))).unwrap();
    assert_eq!(set.scope, Scope::Cluster);
    assert_eq!(set.change, ProtectionChange::Leave(Reason::ProtectionReleased));
    assert_eq!(fields(release(None)), ["scope"]);
    assert_eq!(fields(release(Some(v1::scope::Scope::Cluster(false)))), ["scope.cluster"]);
    let wrong = v1::ServiceName { namespace: String::new(), service: "a.b".into() };
    let wrong = release(Some(v1::scope::Scope::Service(wrong)));
    assert_eq!(fields(wrong), ["scope.service.service"]);
}

#[test]
fn a_peer_is_an_address_and_a_port() {
    let add = |peer: &str| {
        let peer_address = peer.to_owned();
        add_member(&v1::AddMemberRequest { peer_address, ..Default::default() })
    };
    assert_eq!(add("10.0.0.1:8300").unwrap().replace, None);
    for wrong in ["", "10.0.0.1", "host:8300", "10.0.0.1:0", "0.0.0.0:8300", "10.0.0.1:70000"] {
        assert_eq!(fields(add(wrong)), ["peer_address"]);
    }
}

#[test]
fn a_heartbeat_message_is_bounded() {
    let beat = |alive: usize, release: usize| v1::StreamHeartbeatsRequest {
        sequence: 1,
        alive_handles: vec![1; alive],
        release_handles: vec![2; release],
        ..Default::default()
    };
    assert_eq!(check_beat(&mut beat(HANDLES, 0)), Ok(Vec::new()));
    assert_eq!(fields(check_beat(&mut beat(HANDLES, 1))), ["alive_handles"]);
    let report = |degraded, reason: &str| v1::SelfReport {
        lease_handle: 7,
        degraded,
        reason: reason.into(),
        utilization_percent: None,
    };
    let busy = |percent| v1::SelfReport { utilization_percent: Some(percent), ..report(false, "") };
    let says = |self_reports| {
        let mut beat = v1::StreamHeartbeatsRequest { self_reports, ..beat(1, 0) };
        check_beat(&mut beat)
    };
    let read = says(vec![report(true, "full"), report(false, "full")]).unwrap();
    let degraded: Vec<Option<&str>> = read.iter().map(|item| item.degraded.as_deref()).collect();
    assert_eq!(degraded, [Some("full"), None]);
    assert_eq!(fields(says(vec![report(true, "a\n")])), ["self_reports[0].reason"]);
    assert_eq!(fields(says(vec![report(true, ""); 1_001])), ["self_reports"]);
    let read = says(vec![report(false, ""), busy(0), busy(100)]).unwrap();
    let percent = |item: &OwnWord| item.utilization.map(Utilization::percent);
    assert_eq!(read.iter().map(percent).collect::<Vec<_>>(), [None, Some(0), Some(100)]);
    let refused = fields(says(vec![busy(100), busy(101), busy(u32::MAX)]));
    assert_eq!(
        refused,
        ["self_reports[1].utilization_percent", "self_reports[2].utilization_percent"]
    );
}

fn resolve() -> v1::ResolveRequest {
    let service = Some(v1::ServiceName { namespace: String::new(), service: "web".into() });
    v1::ResolveRequest { service, ..Default::default() }
}

#[test]
fn a_lookup_that_says_nothing_is_stale_and_routable() {
    let query = resolve_query(resolve()).unwrap();
    assert_eq!(query.filter, Filter::default());
    assert_eq!(query.filter.health, HealthFilter::Routable);
    let freshness = Freshness { consistency: Consistency::Stale, min_revision: 0 };
    assert_eq!(query.freshness, freshness);
    assert_eq!((query.known_service_revision, query.locality), (None, None));
}

#[test]
fn a_bound_goes_with_bounded_reads_alone() {
    let query = |consistency: v1::Consistency, max_staleness| {
        let consistency = consistency.into();
        resolve_query(v1::ResolveRequest { consistency, max_staleness, ..resolve() })
    };
    use v1::Consistency as Wire;
    let bounded = query(Wire::Bounded, seconds(2)).unwrap();
    assert_eq!(bounded.freshness.consistency, Consistency::Bounded(Duration::from_secs(2)));
    for wrong in [None, seconds(0), seconds(-1), seconds(86_401)] {
        assert_eq!(fields(query(Wire::Bounded, wrong)), ["max_staleness"]);
    }
    for mode in [Wire::Unspecified, Wire::Stale, Wire::Linearizable] {
        assert!(query(mode, None).is_ok());
        assert_eq!(fields(query(mode, seconds(2))), ["max_staleness"]);
    }
    let unknown = v1::ResolveRequest { consistency: 77, ..resolve() };
    assert_eq!(fields(resolve_query(unknown)), ["consistency"]);
}

#[test]
fn equal_filters_are_equal_values_and_wrong_ones_name_their_path() {
    let query = |filter: v1::ResolveFilter| {
        resolve_query(v1::ResolveRequest { filter: Some(filter), ..resolve() })
    };
    let tags = |tags: &[&str]| v1::ResolveFilter {
        tags: tags.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let filter = query(tags(&["b", "a", "b"])).unwrap().filter;
    assert_eq!(filter, query(tags(&["a", "b"])).unwrap().filter);
    assert_eq!(fields(query(tags(&[""]))), ["filter.tags[0]"]);
    let name = v1::ResolveFilter { endpoint_name: "a.b".into(), ..Default::default() };
    assert_eq!(fields(query(name)), ["filter.endpoint_name"]);
    let health = v1::ResolveFilter { health: 9, ..Default::default() };
    assert_eq!(fields(query(health)), ["filter.health"]);
    let pair = v1::ResolveFilter {
        metadata: [("k".to_owned(), "\n".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(fields(query(pair)), ["filter.metadata[\"k\"].value"]);
    let place = v1::Locality { region: "é".into(), ..Default::default() };
    let place = v1::ResolveRequest { client_locality: Some(place), ..resolve() };
    assert_eq!(fields(resolve_query(place)), ["client_locality.region"]);
    assert_eq!(fields(resolve_query(v1::ResolveRequest::default())), ["service"]);
}

#[test]
fn a_batch_of_lookups_names_the_one_that_is_wrong() {
    let good =
        v1::batch_resolve_request::Query { service: resolve().service, ..Default::default() };
    let batch = |queries| {
        let consistency = v1::Consistency::Linearizable.into();
        batch_query(v1::BatchResolveRequest { queries, consistency, ..Default::default() })
    };
    let query = batch(vec![good.clone(); 2]).unwrap();
    assert_eq!(query.queries[1].freshness.consistency, Consistency::Linearizable);
    let wrong = v1::batch_resolve_request::Query { service: None, ..good.clone() };
    assert_eq!(fields(batch(vec![good.clone(), wrong])), ["queries[1].service"]);
    assert_eq!(fields(batch(Vec::new())), ["queries"]);
    assert_eq!(fields(batch(vec![good; 1_001])), ["queries"]);
}

#[test]
fn a_page_follows_the_one_whose_token_it_brings() {
    let request = v1::ListServicesRequest {
        page_token: page_token(&Label::parse("service", "web").unwrap()),
        name_prefix: "We".into(),
        page_size: 3,
        ..Default::default()
    };
    let query = list_query(&request).unwrap();
    assert_eq!(query.after.unwrap().as_str(), "web");
    assert_eq!((&query.prefix[..], query.limit), ("we", 3));
    assert_eq!(list_query(&v1::ListServicesRequest::default()).unwrap().limit, PAGE);
    let wrong = v1::ListServicesRequest {
        namespace: "a b".into(),
        name_prefix: "a.".into(),
        page_size: 1_001,
        page_token: "?".into(),
        ..Default::default()
    };
    let found = fields(list_query(&wrong));
    assert_eq!(found, ["namespace", "name_prefix", "page_token", "page_size"]);
}

#[test]
fn a_watch_names_services_or_a_pattern() {
    use v1::watch_request::{ServiceList, ServicePattern, Target};
    let web = || v1::ServiceName { namespace: String::new(), service: "web".into() };
    let services = |names| Some(Target::Services(ServiceList { names }));
    let watch = |target| watch_query(v1::WatchRequest { target, ..Default::default() });
    let query = watch(services(vec![web()])).unwrap();
    let name = ServiceName::parse("", "web").unwrap();
    assert_eq!(query.target, WatchTarget::Services(vec![name]));
    assert_eq!(query.bookmark_interval, Duration::from_secs(30));
    assert_eq!(query.resume, None);
    assert_eq!(fields(watch(None)), ["target"]);
    assert_eq!(fields(watch(services(Vec::new()))), ["services.names"]);
    assert_eq!(fields(watch(services(vec![web(), web()]))), ["services.names[1]"]);
    assert_eq!(fields(watch(services(vec![web(); 1_001]))), ["services.names"]);
    let pattern = ServicePattern { namespace: "eu".into(), name_prefix: "a.".into() };
    assert_eq!(fields(watch(Some(Target::Pattern(pattern)))), ["pattern.name_prefix"]);
    let whole = watch(Some(Target::Pattern(ServicePattern::default()))).unwrap();
    let namespace = Label::default_namespace();
    assert_eq!(whole.target, WatchTarget::Pattern { namespace, prefix: String::new() });
    for interval in [seconds(0), seconds(31), seconds(-1)] {
        let request = v1::WatchRequest {
            target: services(vec![web()]),
            bookmark_interval: interval,
            ..Default::default()
        };
        assert_eq!(fields(watch_query(request)), ["bookmark_interval"]);
    }
}

#[test]
fn a_token_comes_back_and_rubbish_is_refused() {
    let token = Token { cluster_id: "c".repeat(32), epoch: 3, revision: u64::MAX };
    assert_eq!(Token::decode(&token.encode()).unwrap(), token);
    for rubbish in [&[][..], &[0xff; 8], &[0; 129]] {
        assert_eq!(Token::decode(rubbish).expect_err("rubbish").field, "resume_token");
    }
    let start = v1::tail_request::Start::ResumeToken(vec![0xff; 8]);
    let tail = v1::TailRequest { start: Some(start), service: None };
    assert_eq!(fields(tail_query(tail)), ["resume_token"]);
    assert_eq!(tail_query(v1::TailRequest::default()).unwrap().start, TailStart::Now);
}

#[test]
fn a_history_names_its_subject() {
    let subject = v1::history_request::Subject::Instance(v1::InstanceName::default());
    let wrong = v1::HistoryRequest { subject: Some(subject), limit: 1_001, ..Default::default() };
    assert_eq!(fields(history_query(wrong)), ["instance.service", "limit"]);
    let all = history_query(v1::HistoryRequest::default()).unwrap();
    assert_eq!((all.subject, all.limit, all.before), (HistorySubject::All, PAGE, None));
}

#[test]
fn the_outcome_of_a_registration_names_lease_and_pace() {
    let request = register(good_register(), "", ADMISSION).unwrap();
    let spec = request.items[0].spec.clone();
    let mut state = State::new(10);
    let stamped = Stamped { wall_ms: 1_500, advance_ms: 0, command: Command::Register(request) };
    let outcome = state.apply(&stamped).outcome;
    let Ok(rollcall_core::command::Done::Registered(items)) = outcome.result else {
        panic!("{outcome:?}");
    };
    let record = state.by_generation(items[0].generation).unwrap();
    let result = registered(&items[0], &spec, Some(record));
    assert_eq!(result.lease_handle, result.generation);
    assert_eq!(result.ttl, seconds(10));
    let pace = result.heartbeat_interval.unwrap();
    assert_eq!((pace.seconds, pace.nanos / 1_000_000), (3, 333));
    let shown = result.instance.unwrap();
    assert_eq!(shown.instance_id, "a");
    assert_eq!(shown.health_status(), v1::HealthStatus::Healthy);
    assert_eq!(shown.register_time.unwrap().nanos, 500_000_000);
    let other = rollcall_core::command::Registered { generation: 99, ..items[0] };
    assert_eq!(registered(&other, &spec, Some(record)).instance, None);
}

fn state_of(commands: &[Stamped]) -> State {
    let mut state = State::new(50);
    for command in commands {
        state.apply(command);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_spec_that_is_read_again_is_equal(spec in arbitrary::spec()) {
        let again = super::spec(instance_spec(&spec), Duration::from_secs(99));
        prop_assert_eq!(again.unwrap(), spec);
    }

    #[test]
    fn a_policy_that_is_read_again_is_equal(wanted in arbitrary::policy()) {
        let request = v1::PutServicePolicyRequest {
            service: Some(v1::ServiceName { namespace: String::new(), service: "web".into() }),
            policy: Some(policy(&wanted)),
            request_id: String::new(),
        };
        prop_assert_eq!(put_policy(request, "").unwrap().policy, wanted);
    }

    #[test]
    fn a_reason_that_is_read_again_is_equal(reason in arbitrary::reason()) {
        let wire = event_reason(reason);
        prop_assert_eq!(read_event_reason(wire.into()), Some(reason));
        // The stable code and the name on the wire are the same word.
        let name = wire.as_str_name().strip_prefix("EVENT_REASON_").unwrap();
        prop_assert_eq!(name.to_ascii_lowercase(), reason.as_str());
    }

    #[test]
    fn shared_instances_can_be_appended_to_the_fields_of_a_call(
        commands in proptest::collection::vec(arbitrary::stamped(), 1..40),
    ) {
        let state = state_of(&commands);
        let records: Vec<Arc<_>> =
            state.services().values().flat_map(|s| s.instances.values().cloned()).collect();
        let head = v1::ResolveResponse {
            read_metadata: Some(v1::ReadMetadata { revision: 7, node_id: 1, ..Default::default() }),
            fail_open: true,
            ..Default::default()
        };
        let mut bytes = head.encode_to_vec();
        for record in &records {
            bytes.extend_from_slice(&resolve_instance(record));
        }
        let instances = records.iter().map(|record| instance(record)).collect();
        let whole = v1::ResolveResponse { instances, ..head };
        prop_assert_eq!(&whole.encode_to_vec(), &bytes);
        prop_assert_eq!(v1::ResolveResponse::decode(&bytes[..]).unwrap(), whole);
        for event in state.journal() {
            let shown = super::event(event);
            prop_assert_eq!(shown.revision, event.revision);
            prop_assert_eq!(shown.from_status.is_some(), event.from.is_some());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_taken_but_never_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(request) = v1::RegisterRequest::decode(&bytes[..]) {
            let _ = register(request, "", ADMISSION);
        }
        if let Ok(request) = v1::WatchRequest::decode(&bytes[..]) {
            let _ = watch_query(request);
        }
        if let Ok(request) = v1::ResolveRequest::decode(&bytes[..]) {
            let _ = resolve_query(request);
        }
        let _ = Token::decode(&bytes);
    }
}
