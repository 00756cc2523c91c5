//! Three servers in three namespaces; one is cut off. A load balancer next to it must not lose its backends.

use std::time::{Duration, Instant};

use crate::case::{Checked, Need, check};
use crate::health::cluster::{Cluster, SERVERS};
use crate::netns::{Namespace, network};
use crate::program::{find, output, until};
use crate::registry::DOMAIN;
use crate::stage::Stage;

/// What this case needs.
pub(super) const NEEDS: &[Need] =
    &[Need::Root, Need::Program("ip"), Need::Program("nft"), Need::Program("dig")];
const SOON: Duration = Duration::from_secs(20);

/// What `dig` on the machine itself gets from its own server.
fn ask(machine: &Namespace) -> Checked<String> {
    let dig = find("dig").ok_or("dig")?;
    let server = format!("@{}", machine.address);
    let name = format!("web.service.{DOMAIN}");
    let arguments = [&server, "-p", "8600", "+tries=1", "+time=2", &name, "A"];
    output(machine.command(&dig).args(arguments))
}

/// It answers all the time: at first as ever, then marked as stale with a short TTL, then as ever again.
pub(super) fn answers(stage: &mut Stage) -> Checked {
    let machines = network(stage, SERVERS)?;
    let _cluster = Cluster::spread(stage, &machines)?;
    let api = format!("{}:8502", machines[0].address);
    let run = |arguments: &[&str]| {
        let mut command = machines[0].command(&stage.rollcall);
        output(command.args(arguments).env("ROLLCALL_ADDR", &api))
    };
    let register =
        ["register", "web", "--id", "a", "--persistent", "--endpoint", "http=10.99.0.1:80"];
    until("it is registered", SOON, || run(&register))?;
    until("all three vote", SOON, || {
        let text = run(&["status", "-o", "json"])?;
        check(text.matches("\"FOLLOWER\"").count() == 2, || text.clone())
    })?;
    let listed = |text: &str| text.contains("10.99.0.1");
    let stale = |text: &str| text.contains("EDE: 3");
    for machine in &machines {
        until("every node answers", SOON, || {
            let text = ask(machine)?;
            check(listed(&text) && !stale(&text), || text.clone())
        })?;
    }
    machines[2].cut_off()?;
    let cut = Instant::now();
    let text = until("it says that it is stale", SOON, || {
        let text = ask(&machines[2])?;
        // An answer without the instance ends the wait, and the case.
        let ends = stale(&text) || !listed(&text);
        if ends { Ok(text) } else { Err(text.into()) }
    })?;
    check(listed(&text), || format!("the instance is lost:\n{text}"))?;
    stage.note(&format!("marked stale {:.1} s after the cut", cut.elapsed().as_secs_f64()));
    let short = text.lines().any(|line| {
        let mut words = line.split_whitespace();
        listed(line) && words.nth(1).is_some_and(|ttl| matches!(ttl, "0" | "1" | "2"))
    });
    check(short, || format!("the TTL is not short:\n{text}"))?;
    for machine in &machines[..2] {
        // The one that is cut off may have led: then the others are without a leader for a moment.
        until("the majority is in step", SOON, || {
            let text = ask(machine)?;
            check(listed(&text) && !stale(&text), || text.clone())
        })?;
    }
    machines[2].heal()?;
    until("it is in step again", SOON, || {
        let text = ask(&machines[2])?;
        check(listed(&text) && !stale(&text), || text.clone())
    })
}
