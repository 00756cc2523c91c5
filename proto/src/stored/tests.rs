//! Every stored type comes back equal, and no damage makes a reader panic.

use super::{arbitrary, *};
use proptest::{collection::vec, prelude::*, sample::Index, strategy::ValueTree};
use rollcall_core::{State, state::Part};
use std::sync::Arc;

fn load(chunks: &[Vec<u8>]) -> Result<State, StoredError> {
    let mut loader = StateLoader::new(50);
    for chunk in chunks {
        loader.add(chunk)?;
    }
    loader.finish()
}

fn state_after(commands: &[Stamped]) -> State {
    let mut state = State::new(50);
    for command in commands {
        state.apply(command);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_command_comes_back_equal(stamped in arbitrary::stamped()) {
        prop_assert_eq!(&decode_command(&encode_command(&stamped)).unwrap(), &stamped);
        let unstamped = encode_unstamped(&stamped.command);
        prop_assert_eq!(decode_unstamped(&unstamped).unwrap(), stamped.command);
    }

    #[test]
    fn a_spec_that_was_read_keeps_no_room_that_it_does_not_need(stamped in arbitrary::stamped()) {
        let read = decode_command(&encode_command(&stamped)).unwrap();
        if let Command::Register(register) = read.command {
            for spec in register.items.iter().map(|item| &item.spec) {
                prop_assert_eq!(spec.endpoints.capacity(), spec.endpoints.len());
                prop_assert_eq!(spec.tags.capacity(), spec.tags.len());
                prop_assert_eq!(spec.metadata.capacity(), spec.metadata.len());
            }
        }
    }

    #[test]
    fn an_outcome_comes_back_equal(outcome in arbitrary::outcome()) {
        prop_assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_value(
        stamped in arbitrary::stamped(),
        outcome in arbitrary::outcome(),
        at in any::<Index>(),
        bit in 0..8_u32,
    ) {
        for bytes in [encode_command(&stamped), encode_outcome(&outcome)] {
            let at = at.index(bytes.len());
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            if let Ok(shorter) = decode_command(&bytes[..at]) {
                prop_assert_ne!(&shorter, &stamped);
            }
            if let Ok(shorter) = decode_outcome(&bytes[..at]) {
                prop_assert_ne!(&shorter, &outcome);
            }
            for damaged in [&bytes[..at], &flipped] {
                let _ = decode_command(damaged);
                let _ = decode_outcome(damaged);
                let _ = decode_unstamped(damaged);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn a_state_comes_back_equal_and_goes_on_alike(
        before in vec(arbitrary::stamped(), 0..60),
        after in vec(arbitrary::stamped(), 0..20),
    ) {
        let mut state = state_after(&before);
        let chunks: Vec<Vec<u8>> = state_parts(&state).collect();
        let mut loaded = load(&chunks).unwrap();
        prop_assert!(loaded.parts().eq(state.parts()));
        prop_assert_eq!(loaded.hash(), state.hash());
        prop_assert!(state_parts(&loaded).eq(chunks), "equal states must have equal bytes");
        for command in &after {
            let (one, other) = (state.apply(command), loaded.apply(command));
            prop_assert_eq!(one.outcome, other.outcome);
            prop_assert_eq!(one.events, other.events);
        }
        prop_assert!(loaded.parts().eq(state.parts()));
    }

    #[test]
    fn a_damaged_state_is_an_error_or_another_state(
        before in vec(arbitrary::stamped(), 0..30),
        at in any::<Index>(),
        bit in 0..8_u32,
    ) {
        let chunks: Vec<Vec<u8>> = state_parts(&state_after(&before)).collect();
        let at = at.index(chunks[0].len());
        let mut flipped = chunks[0].clone();
        flipped[at] ^= 1 << bit;
        if let Ok(shorter) = load(&[chunks[0][..at].to_vec()]) {
            prop_assert!(state_parts(&shorter).next() != Some(chunks[0].clone()));
        }
        let _ = load(&[flipped]);
    }
}

fn registration() -> Stamped {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut any = || arbitrary::stamped().new_tree(&mut runner).unwrap().current();
    std::iter::repeat_with(&mut any)
        .find(|stamped| matches!(stamped.command, Command::Register(_)))
        .unwrap()
}

#[test]
fn every_refusal_comes_back_equal() {
    for rejection in arbitrary::rejections() {
        let outcome = Outcome { revision: 5, result: Err(rejection) };
        assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
    }
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let mut bytes = encode_command(&registration()).to_vec();
    bytes[0] = FORMAT + 1;
    let error = decode_command(&bytes).expect_err("later format");
    assert!(matches!(error, StoredError::Format { found } if found == FORMAT + 1), "{error}");
}

#[test]
fn an_unknown_kind_of_command_is_refused() {
    // Field 99 of Command, of length 0.
    let command = [0x9a, 0x06, 0x00];
    let mut bytes = vec![FORMAT, 0x1a, 3];
    bytes.extend(command);
    assert!(decode_command(&bytes).is_err());
    let bytes = [&[FORMAT][..], &command].concat();
    assert!(decode_unstamped(&bytes).is_err());
    let error = decode_unstamped(&[FORMAT]).expect_err("no kind");
    assert!(matches!(error, StoredError::Unknown { field: "kind of command" }), "{error}");
}

#[test]
fn a_field_of_a_later_program_is_not_overlooked() {
    let mut bytes = encode_command(&registration()).to_vec();
    // Field 99 of StampedCommand, varint 1.
    bytes.extend([0x98, 0x06, 0x01]);
    let error = decode_command(&bytes).expect_err("unknown field");
    assert!(matches!(error, StoredError::Surplus { .. }), "{error}");
}

#[test]
fn an_unknown_enum_value_is_refused() {
    let command = wire::Command {
        kind: Some(wire::command::Kind::SetAdminState(wire::command::SetAdminState {
            name: Some(wire::StoredName {
                service: "web".into(),
                id: "a".into(),
                ..Default::default()
            }),
            state: 99,
            actor: Some(wire::StoredActor { kind: 1, who: Bytes::new() }),
            ..Default::default()
        })),
    };
    let error = decode_unstamped(&seal(&command)).expect_err("unknown state");
    assert!(matches!(error, StoredError::Unknown { field: "admin_state" }), "{error}");
}

#[test]
fn an_unknown_value_in_a_list_of_outcomes_is_refused_and_not_skipped() {
    use wire::outcome::{Expired, Reported, Result as Wire};
    let cases = [
        (Wire::Expired(Expired { items: vec![1, 99] }), "expired"),
        (Wire::Expired(Expired { items: vec![0] }), "expired"),
        (Wire::Reported(Reported { items: vec![99, 1] }), "reported"),
        (Wire::Reported(Reported { items: vec![0] }), "reported"),
    ];
    for (result, field) in cases {
        let outcome = wire::Outcome { revision: 1, result: Some(result) };
        let error = decode_outcome(&seal(&outcome)).expect_err(field);
        assert!(matches!(error, StoredError::Unknown { field: it } if it == field), "{error}");
    }
}

#[test]
fn nothing_is_not_a_record() {
    assert!(matches!(decode_command(&[]), Err(StoredError::Empty)));
    assert!(matches!(StateLoader::new(1).add(&[]), Err(StoredError::Empty)));
}

#[test]
fn a_chunk_that_is_missing_is_noticed() {
    let mut state = State::new(50);
    let Command::Register(register) = registration().command else { unreachable!() };
    for i in 0..3_000_u32 {
        let mut register = register.clone();
        register.items.truncate(1);
        register.request_id = None;
        register.address_limit = false;
        register.items[0].expected_revision = None;
        let id = format!("i{i}");
        register.items[0].name.id = rollcall_core::name::InstanceId::parse(&id).unwrap();
        let command = Command::Register(register);
        state.apply(&Stamped { wall_ms: 1, advance_ms: 1, command });
    }
    assert_eq!(state.instance_count(), 3_000);
    let chunks: Vec<Vec<u8>> = state_parts(&state).collect();
    assert!(chunks.len() > 2, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() <= 320 * 1024));
    assert!(load(&chunks).is_ok());
    for missing in 0..chunks.len() {
        let mut rest = chunks.clone();
        rest.remove(missing);
        assert!(matches!(load(&rest), Err(StoredError::Damaged(_))), "chunk {missing}");
    }
}

#[test]
fn equal_names_and_words_are_shared_after_loading() {
    let state = {
        let mut state = State::new(50);
        let Command::Register(mut register) = registration().command else { unreachable!() };
        register.items.truncate(1);
        register.request_id = None;
        register.items[0].expected_revision = None;
        let spec = Arc::make_mut(&mut register.items[0].spec);
        spec.tags = vec!["shared".into()];
        for id in ["a", "b"] {
            register.items[0].name.id = rollcall_core::name::InstanceId::parse(id).unwrap();
            let command = Command::Register(register.clone());
            state.apply(&Stamped { wall_ms: 1, advance_ms: 1, command });
        }
        state
    };
    let loaded = load(&state_parts(&state).collect::<Vec<_>>()).unwrap();
    let records: Vec<_> = loaded
        .parts()
        .filter_map(|part| match part {
            Part::Instance { record, .. } => Some(record),
            _ => None,
        })
        .collect();
    assert_eq!(records.len(), 2);
    assert!(Arc::ptr_eq(&records[0].spec.tags[0], &records[1].spec.tags[0]));
    let name = |i: usize| records[i].name.service.service.as_str().as_ptr();
    assert_eq!(name(0), name(1));
}
