//! Journal tails: from the beginning, or from some revision on; each event must be the next one, wherever the tail
//! goes on after its node is gone. What was sent is compared with the history by an invariant. The library drops what
//! it was sent twice, so one more tail is opened on the bare API, again and again, after whatever it was told last.

use super::{Setup, host, pause, stuck::channel};
use crate::oracle::now;
use rand::RngExt;
use rollcall_client::Error;
use rollcall_proto::v1::{
    Event, TailRequest, journal_service_client::JournalServiceClient, tail_request::Start,
};
use std::time::Duration;
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    let tails = setup.plan.mix.tails;
    host(sim, "tail", tails * 2, setup, move |setup, task| async move {
        match task < tails {
            true => tail(&setup, task).await,
            false => bare(&setup, task).await,
        }
    });
}

/// Short tails at any node, without the library.
async fn bare(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("bare tail {task}"));
    let mut after = 0;
    while now() < setup.plan.length {
        pause(&setup.plan, &mut dice).await;
        let node = dice.random_range(0..setup.addresses.len());
        let length = Duration::from_millis(dice.random_range(500..3_000));
        // A node that does not answer, and a stream that breaks, are for the library.
        let _ = tokio::time::timeout(length, listen(setup, task, node, &mut after)).await;
        setup.oracle.points.hit("a tail began after a revision");
    }
}

async fn listen(
    setup: &Setup,
    task: usize,
    node: usize,
    after: &mut u64,
) -> Result<(), tonic::Status> {
    let mut client = JournalServiceClient::new(channel(&setup.addresses[node]));
    let request = TailRequest { start: Some(Start::AfterRevision(*after)), service: None };
    let mut stream = client.tail(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        for event in message.events {
            next(setup, task, after, event);
        }
    }
    Ok(())
}

/// Takes the next event: no other one than the one that comes next.
fn next(setup: &Setup, task: usize, after: &mut u64, event: Event) {
    if event.revision != *after + 1 {
        let seen = format!("tail {task}: {} after {after}", event.revision);
        setup.oracle.complain("a tail sends every event once, in order", seen);
    }
    *after = event.revision;
    setup.oracle.ledger().tailed.push((task, event));
}

async fn tail(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("tail {task}"));
    let mut after = 0;
    loop {
        let client = setup.client(&mut dice);
        let mut tail =
            client.tail(TailRequest { start: Some(Start::AfterRevision(after)), service: None });
        let until = now() + Duration::from_millis(dice.random_range(3_000..15_000));
        while now() < until {
            let event = tokio::time::timeout(Duration::from_secs(1), tail.next()).await;
            match event {
                Err(_) => continue,
                Ok(Ok(event)) => next(setup, task, &mut after, event),
                Ok(Err(error)) => {
                    ended(setup, task, &error);
                    break;
                }
            }
            if dice.random_range(0..20) == 0 {
                pause(&setup.plan, &mut dice).await;
            }
        }
        // One begins again from the beginning, the other goes on where it was.
        if task == 0 && dice.random() {
            after = 0;
            setup.oracle.points.hit("a tail was far behind");
        }
    }
}

/// The library goes on by itself after everything that can be tried again; nothing was compacted in so short a run.
fn ended(setup: &Setup, task: usize, error: &Error) {
    if error.is_retryable() {
        return;
    }
    let seen = format!("tail {task} ended: {error}");
    setup.oracle.complain("a tail goes on until it is compacted", seen);
}
