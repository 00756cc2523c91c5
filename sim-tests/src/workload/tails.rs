//! Journal tails: from the beginning, or from some revision on; each event must be the next one, wherever the tail
//! goes on after its node is gone. What was sent is compared with the history by an invariant.

use super::{Setup, host, pause};
use crate::oracle::now;
use rand::RngExt;
use rollcall_client::Error;
use rollcall_proto::v1::{TailRequest, tail_request::Start};
use std::time::Duration;
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "tail", setup.plan.mix.tails, setup, |setup, task| async move {
        tail(&setup, task).await
    });
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
            let next = tokio::time::timeout(Duration::from_secs(1), tail.next()).await;
            match next {
                Err(_) => continue,
                Ok(Ok(event)) => {
                    if event.revision != after + 1 {
                        let seen = format!("tail {task}: {} after {after}", event.revision);
                        setup.oracle.complain("a tail sends every event once, in order", seen);
                    }
                    after = event.revision;
                    setup.oracle.ledger().tailed.push((task, event));
                }
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
