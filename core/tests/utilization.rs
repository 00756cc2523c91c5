//! How busy instances are: figures beside the records, which nothing visible depends on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::{Registry, node, operator, parts, registration, service, spec};
use rollcall_core::{
    Command, Rejection,
    command::{Done, Figure, ReportSelf, Reported, SelfReport},
    instance::limit,
    signals::Utilization,
    state::Part,
};

fn two() -> (Registry, u64, u64) {
    let mut registry = Registry::new();
    let a = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10))).generation;
    let b = registry.register(registration("web/b", 2, spec("10.0.0.2:80", 10))).generation;
    (registry, a, b)
}

fn send(
    registry: &mut Registry,
    items: Vec<SelfReport>,
    figures: Vec<Figure>,
) -> Result<Vec<Reported>, Rejection> {
    let report = ReportSelf { items, figures, actor: node() };
    match registry.send(Command::ReportSelf(report)).result? {
        Done::Reported(done) => Ok(done),
        other => panic!("a report came to {other:?}"),
    }
}

fn tell(registry: &mut Registry, generation: u64, percent: Option<u32>) -> Reported {
    let utilization = percent.map(|percent| Utilization::new(percent).unwrap());
    send(registry, vec![], vec![Figure { generation, utilization }]).unwrap()[0]
}

fn shown(registry: &Registry, instance: &str) -> Option<u32> {
    let record = registry.get(instance).unwrap();
    registry.state.utilization(record).map(Utilization::percent)
}

fn figures(registry: &Registry) -> usize {
    let figure = |part: &Part| matches!(part, Part::Utilization { .. });
    parts(&registry.state).iter().filter(|part| figure(part)).count()
}

#[test]
fn a_figure_is_shown_and_changes_neither_record_nor_revision_nor_hash_nor_journal() {
    let (mut registry, a, _) = two();
    let before = registry.clone();
    assert_eq!(tell(&mut registry, a, Some(70)), Reported::Taken);
    assert!(registry.events.is_empty());
    assert_eq!((shown(&registry, "web/a"), shown(&registry, "web/b")), (Some(70), None));
    assert_eq!(registry.state.revision(), before.state.revision());
    assert_eq!(registry.state.hash(), before.state.hash());
    assert_eq!(registry.state.journal(), before.state.journal());
    assert_eq!(registry.get("web/a"), before.get("web/a"));
    let name = service("web");
    assert_eq!(registry.state.service_revision(&name), before.state.service_revision(&name));
    assert_eq!(tell(&mut registry, a, Some(70)), Reported::Unchanged);
    assert_eq!(tell(&mut registry, a, None), Reported::Taken);
    assert_eq!(shown(&registry, "web/a"), None);
    assert!(registry.state.utilizations().is_empty());
    assert_eq!(parts(&registry.state), parts(&before.state));
}

#[test]
fn a_figure_goes_with_its_generation_and_stays_with_an_update() {
    let (mut registry, a, b) = two();
    tell(&mut registry, a, Some(70));
    tell(&mut registry, b, Some(20));
    // The same owner with another spec is the same generation.
    let done = registry.register(registration("web/a", 1, spec("10.0.0.9:80", 10)));
    assert_eq!((done.generation, shown(&registry, "web/a")), (a, Some(70)));
    // A new owner has told nothing, and the late word of the former one has no effect.
    let taken = registry.register(registration("web/a", 3, spec("10.0.0.9:80", 10)));
    assert!(taken.generation > a);
    assert_eq!(shown(&registry, "web/a"), None);
    assert_eq!(tell(&mut registry, a, Some(90)), Reported::Superseded);
    assert_eq!(figures(&registry), 1);
    registry.deregister("web/b", operator()).unwrap();
    assert_eq!(figures(&registry), 0);
    assert_eq!(tell(&mut registry, b, Some(90)), Reported::Superseded);
    assert!(registry.state.utilizations().is_empty());
}

#[test]
fn an_evicted_instance_leaves_no_figure() {
    let (mut registry, a, _) = two();
    tell(&mut registry, a, Some(70));
    let epoch = registry.get("web/a").unwrap().lease_epoch;
    registry.expire(a, epoch);
    registry.advance(60_000);
    assert_eq!(registry.evict(a, epoch), 1);
    assert_eq!(figures(&registry), 0);
}

#[test]
fn a_snapshot_carries_the_figures_and_a_new_epoch_forgets_them() {
    let (mut registry, a, b) = two();
    tell(&mut registry, a, Some(0));
    tell(&mut registry, b, Some(100));
    let mut loaded = registry.reloaded();
    assert_eq!((shown(&loaded, "web/a"), shown(&loaded, "web/b")), (Some(0), Some(100)));
    assert_eq!(parts(&loaded.state), parts(&registry.state));
    loaded.state.begin_epoch();
    assert_eq!(figures(&loaded), 0);
}

#[test]
fn a_figure_has_its_bounds_and_so_has_a_batch_of_both_kinds() {
    assert_eq!(Utilization::new(100).map(Utilization::percent), Some(100));
    for percent in [101, 256, u32::MAX] {
        assert_eq!(Utilization::new(percent), None);
    }
    let (mut registry, a, _) = two();
    let item = SelfReport { generation: a, degraded: None };
    let figure = Figure { generation: a, utilization: Utilization::new(7) };
    for (items, figures) in [(0, 0), (0, limit::FINDINGS + 1), (1, limit::FINDINGS)] {
        let refused = send(&mut registry, vec![item.clone(); items], vec![figure; figures]);
        assert!(matches!(refused, Err(Rejection::InvalidBatch { .. })));
    }
    let done = send(&mut registry, vec![item], vec![figure; limit::FINDINGS - 1]).unwrap();
    assert_eq!(done.len(), limit::FINDINGS);
    assert_eq!(done[..3], [Reported::Unchanged, Reported::Taken, Reported::Unchanged]);
}
