//! The index from addresses to the instances that name them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::*;
use rollcall_core::State;

/// The instances at an address in their order.
fn at(state: &State, address: &str) -> String {
    let records = state.at_address(address.parse().unwrap());
    records.map(|record| record.name.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_address_is_told_by_all_that_name_it_in_the_order_they_came() {
    let mut registry = Registry::new();
    registry.register(registration("web/b", 1, spec("10.0.0.1:80", 10)));
    registry.register(registration("db/a", 1, spec("10.0.0.1:81", 10)));
    registry.register(registration("web/c", 1, spec("10.0.0.2:80", 10)));
    assert_eq!(at(&registry.state, "10.0.0.1"), "web/b db/a");
    assert_eq!(at(&registry.state, "10.0.0.3"), "");
    // A new owner is a new generation, an update is not.
    registry.register(registration("web/b", 2, spec("10.0.0.1:80", 10)));
    registry.register(registration("db/a", 1, spec("10.0.0.1:82", 10)));
    assert_eq!(at(&registry.state, "10.0.0.1"), "db/a web/b");
    registry.register(registration("web/b", 2, spec("10.0.0.2:80", 10)));
    assert_eq!(at(&registry.state, "10.0.0.1"), "db/a");
    assert_eq!(at(&registry.state, "10.0.0.2"), "web/c web/b");
    assert_eq!(at(&registry.reloaded().state, "10.0.0.2"), "web/c web/b");
    registry.deregister("web/c", owner()).unwrap();
    registry.deregister("db/a", owner()).unwrap();
    assert_eq!(at(&registry.state, "10.0.0.1"), "");
    assert_eq!(at(&registry.state, "10.0.0.2"), "web/b");
}
