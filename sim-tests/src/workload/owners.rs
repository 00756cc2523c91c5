//! Owners: processes that register instances through the client library and keep them, drain them, let go of some
//! and take them up again. Faults kill whole processes; a new process takes the same ids over.

use super::{OWNERS, Setup, owned};
use crate::oracle::{Beat, now};
use rand::{RngExt, rngs::SmallRng};
use rollcall_client::{Client, Guard, Registration, State};
use rollcall_proto::v1::AdminState;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use turmoil::Sim;

/// How often an owner looks at what was acknowledged.
const LOOK: Duration = Duration::from_millis(5);

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    for (number, host) in OWNERS.iter().enumerate() {
        let (setup, boots) = (setup.clone(), Arc::new(AtomicU32::new(0)));
        sim.host(*host, move || {
            let (setup, boot) = (setup.clone(), boots.fetch_add(1, Ordering::Relaxed));
            async move { own(&setup, number, boot).await }
        });
    }
}

/// One instance of an owner.
struct Slot {
    number: usize,
    guard: Option<Guard>,
    was_registered: bool,
    /// A guard was let go of before its first registration was answered: should nobody know its outcome, it may still
    /// come and supersede the next one.
    may_have_ghost: bool,
}

/// Identity of an instance: owner and number.
fn registration(setup: &Setup, owner: usize, number: usize) -> Registration {
    let mix = &setup.plan.mix;
    let ttl = mix.ttl * (1 + u32::try_from(number % 3).unwrap_or_default());
    let host = u8::try_from(owner * 16 + number).unwrap_or(u8::MAX);
    Registration::new(owned(number % mix.services).service.as_str())
        .id(format!("o{owner}-{number}"))
        .endpoint("http", ([10, 200, 0, host], 8_000).into())
        .ttl(ttl)
        .evict_after(mix.evict_after)
}

async fn own(setup: &Setup, owner: usize, boot: u32) -> turmoil::Result {
    let mut dice = setup.dice(&format!("owner {owner} boot {boot}"));
    let mut hasty = setup.dice(&format!("owner {owner} boot {boot} is hasty"));
    let client = setup.client(&mut dice);
    let mut slots: Vec<Slot> = (0..setup.plan.mix.instances)
        .map(|number| Slot { number, guard: None, was_registered: false, may_have_ghost: false })
        .collect();
    for slot in &mut slots {
        slot.guard = Some(client.keep_registered(registration(setup, owner, slot.number))?);
    }
    let (start, offset) = (Instant::now(), now());
    let mut next = now() + Duration::from_millis(dice.random_range(1_000..6_000));
    loop {
        tokio::time::sleep(LOOK).await;
        for slot in &mut slots {
            note(setup, slot, |sent| offset + sent.saturating_duration_since(start))?;
        }
        // Towards the end everybody is back at work: what was let go of is taken up again.
        let calm = now() > setup.plan.length;
        if now() >= next && !calm {
            let some = dice.random_range(0..slots.len());
            let is_new = slots[some].guard.is_none();
            act(setup, owner, &client, &mut slots[some], &mut dice).await?;
            if is_new && hasty.random() {
                waver(setup, owner, &client, &mut slots[some], &mut hasty).await?;
            }
            next = now() + Duration::from_millis(dice.random_range(300..4_000));
        }
        if calm {
            for slot in slots.iter_mut().filter(|slot| slot.guard.is_none()) {
                slot.guard =
                    Some(client.keep_registered(registration(setup, owner, slot.number))?);
            }
        }
    }
}

/// Only a registration that the library gave up without knowing its outcome may come later, and supersede one once.
fn may_be_ghost(setup: &Setup) -> bool {
    let count = |point| setup.oracle.points.count(point);
    count("an owner was fenced by its own ghost")
        < count("a registration was let go of with unknown outcome")
}

/// Tells the oracle what was acknowledged last.
fn note(
    setup: &Setup,
    slot: &mut Slot,
    at: impl Fn(Instant) -> Duration,
) -> Result<(), rollcall_client::Error> {
    let Some(guard) = &slot.guard else { return Ok(()) };
    let registered = match guard.state() {
        State::Registered { .. } => true,
        State::Registering { .. } => false,
        State::Fenced { .. } if slot.may_have_ghost && may_be_ghost(setup) => {
            setup.oracle.points.hit("an owner was fenced by its own ghost");
            (slot.guard, slot.was_registered, slot.may_have_ghost) = (None, false, false);
            return Ok(());
        }
        State::Fenced { cause, detail } => {
            let seen = format!("{} was fenced ({cause:?}): {detail}", guard.name());
            setup.oracle.complain("an owner is fenced by a newer one alone", seen);
            false
        }
        State::Stopped => false,
    };
    if slot.was_registered && !registered {
        setup.oracle.points.hit("an owner was registered again by itself");
    }
    slot.was_registered = registered;
    if let (Some(generation), Some(last)) = (guard.generation(), guard.acknowledged()) {
        let number = u32::try_from(slot.number % 3).unwrap_or_default();
        let beat = Beat { sent: at(last.sent), generation, ttl: setup.plan.mix.ttl * (1 + number) };
        let mut ledger = setup.oracle.ledger();
        ledger.left.remove(guard.name());
        ledger.beats.insert(guard.name().clone(), beat);
    }
    Ok(())
}

async fn act(
    setup: &Setup,
    owner: usize,
    client: &Client,
    slot: &mut Slot,
    dice: &mut SmallRng,
) -> Result<(), rollcall_client::Error> {
    let Some(guard) = &slot.guard else {
        slot.guard = Some(client.keep_registered(registration(setup, owner, slot.number))?);
        return Ok(());
    };
    let name = guard.name().clone();
    let unanswered = guard.acknowledged().is_none();
    let state = match dice.random_range(0..8) {
        0 => AdminState::Draining,
        1 => AdminState::Maintenance,
        _ => AdminState::Enabled,
    };
    // What comes of it is of no importance: the states of instances are judged by the nodes' history.
    match dice.random_range(0..6) {
        0..=3 => drop(guard.set_admin_state(state, "owner").await),
        4 => {
            forget(setup, &name);
            if let Some(guard) = slot.guard.take() {
                let _ = guard.deregister().await;
            }
        }
        _ => {
            forget(setup, &name);
            drop(slot.guard.take());
        }
    }
    slot.was_registered = slot.was_registered && slot.guard.is_some();
    slot.may_have_ghost |= unanswered && slot.guard.is_none();
    Ok(())
}

/// Lets go of what it has just begun to register, often before that is answered, and takes it up again at once.
async fn waver(
    setup: &Setup,
    owner: usize,
    client: &Client,
    slot: &mut Slot,
    dice: &mut SmallRng,
) -> Result<(), rollcall_client::Error> {
    tokio::time::sleep(Duration::from_millis(dice.random_range(1..40))).await;
    if let Some(guard) = slot.guard.take() {
        slot.may_have_ghost |= guard.acknowledged().is_none();
        forget(setup, guard.name());
    }
    tokio::time::sleep(Duration::from_millis(dice.random_range(0..40))).await;
    slot.guard = Some(client.keep_registered(registration(setup, owner, slot.number))?);
    slot.was_registered = false;
    Ok(())
}

fn forget(setup: &Setup, name: &rollcall_core::name::InstanceName) {
    let mut ledger = setup.oracle.ledger();
    ledger.beats.remove(name);
    ledger.left.insert(name.clone(), now());
}
