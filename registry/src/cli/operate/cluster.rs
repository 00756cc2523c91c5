//! `status`, `member`, `leader`: the nodes of the cluster.

use std::time::Duration;

use rollcall_client::v1;

use super::super::args::{LeaderCommand, MemberCommand};
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, lookup, stdout, words};

/// Longest time for a change of the membership: a new member first receives the whole state.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);
/// After a transfer the new leader is looked for so often, 2 s in all.
const LOOKS: usize = 40;
const LOOK: Duration = Duration::from_millis(50);

/// Shows the cluster as the asked node sees it.
pub(crate) async fn status(context: &Context) -> Outcome {
    let status = context.client.get_cluster_status().await?;
    if context.is_json() {
        stdout::json(&json::of(&status))?;
        return Ok(Exit::Ok);
    }
    let name_of = |id: u64| {
        let named = status.members.iter().find(|member| member.node_id == id);
        named.map_or_else(|| words::id(id), |member| format!("{} ({})", member.name, words::id(id)))
    };
    let leader = match status.leader_node_id {
        0 => "none known".to_owned(),
        id => name_of(id),
    };
    let leases = status.leases.unwrap_or_default();
    let behind = match status.staleness {
        Some(staleness) if staleness == prost_types::Duration::default() => "in step".to_owned(),
        Some(staleness) => format!("at most {} behind", words::length(Some(&staleness))),
        None => "not in step with a leader so far".to_owned(),
    };
    let protection = match status.protections.len() {
        0 => "off".to_owned(),
        scopes => format!("on in {scopes} scopes, see `rollcall protection show`"),
    };
    let cluster = if status.cluster_id.is_empty() { "none" } else { &status.cluster_id };
    let rows = [
        ("cluster", format!("{cluster}, epoch {}", status.epoch)),
        ("leader", format!("{leader}, term {}", status.term)),
        ("asked", format!("{}, {behind}", name_of(status.node_id))),
        ("log", format!("applied {} of {}", status.applied_index, status.committed_index)),
        ("revision", status.revision.to_string()),
        ("state hash", status.state_hash.clone()),
        ("instances", format!("{} in {} services", status.instance_count, status.service_count)),
        (
            "leases",
            format!("{} running, {} held, {} expired", leases.current, leases.held, leases.expired),
        ),
        ("protection", protection),
        ("version", status.server_version.clone()),
    ];
    for (what, value) in rows {
        stdout::line(&format!("{what:<11} {value}"))?;
    }
    stdout::line("")?;
    members(&status.members)?;
    Ok(Exit::Ok)
}

fn members(members: &[v1::Member]) -> Result<(), Failure> {
    let header = ["NAME", "ID", "ROLE", "PROBES", "GRPC", "HTTP", "PEER", "LAG", "LAST CONTACT"];
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|member| (&member.name, member.node_id));
    let rows = members.into_iter().map(|member| {
        [
            member.name.clone(),
            words::id(member.node_id),
            words::role(member.role).to_lowercase(),
            if member.probes { "yes" } else { "no" }.to_owned(),
            member.api_address.clone(),
            member.http_address.clone(),
            member.peer_address.clone(),
            member.lag_entries.map(|lag| lag.to_string()).unwrap_or_default(),
            match member.role() {
                // The leader tells about the others.
                v1::MemberRole::Leader => String::new(),
                _ => words::length(member.last_contact.as_ref()),
            },
        ]
    });
    stdout::table(header, rows)
}

/// Takes members in and out.
pub(crate) async fn member(context: &Context, command: MemberCommand) -> Outcome {
    let client = context.client.with_timeout(CHANGE_TIMEOUT);
    match command {
        MemberCommand::Add { address, replace, learner } => {
            let replace_node_id = match &replace {
                Some(node) => lookup::node(&context.client, node).await?,
                None => 0,
            };
            let peer_address = literal(&address).await?;
            let request = v1::AddMemberRequest { peer_address, replace_node_id, learner };
            let answer = client.add_member(request).await?;
            if context.is_json() {
                stdout::json(&json::of(&answer))?;
            } else {
                complain(&format!("added {} at {address}", words::id(answer.node_id)));
                members(&answer.members)?;
            }
        }
        MemberCommand::Remove { node } => {
            let node_id = lookup::node(&context.client, &node).await?;
            let answer = client.remove_member(v1::RemoveMemberRequest { node_id }).await?;
            if context.is_json() {
                stdout::json(&json::of(&answer))?;
            } else {
                complain(&format!("removed {}", words::id(node_id)));
                members(&answer.members)?;
            }
        }
        MemberCommand::Promote { node } => {
            let node_id = lookup::node(&context.client, &node).await?;
            let answer = client.promote_member(v1::PromoteMemberRequest { node_id }).await?;
            if context.is_json() {
                stdout::json(&json::of(&answer))?;
            } else {
                complain(&format!("{} votes", words::id(node_id)));
                members(&answer.members)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// `host:port` as `ip:port`: the registry takes no names.
async fn literal(address: &str) -> Result<String, Failure> {
    let found = tokio::net::lookup_host(address).await;
    let mut found =
        found.map_err(|e| Failure::new(format!("look up peer address {address}: {e}")))?;
    let first = found.next().map(|address| address.to_string());
    first.ok_or_else(|| Failure::new(format!("peer address {address} has no IP address")))
}

/// Moves the leadership.
pub(crate) async fn leader(context: &Context, command: LeaderCommand) -> Outcome {
    let LeaderCommand::Transfer { node } = command;
    let target_node_id = match &node {
        Some(node) => lookup::node(&context.client, node).await?,
        None => 0,
    };
    let client = context.client.with_timeout(CHANGE_TIMEOUT);
    let mut answer = client.transfer_leader(v1::TransferLeaderRequest { target_node_id }).await?;
    // The new leader makes itself known a moment after the old one has let go.
    let known = |leader: u64| leader != 0 && [0, leader].contains(&target_node_id);
    for _ in 0..LOOKS {
        if known(answer.leader_node_id) {
            break;
        }
        tokio::time::sleep(LOOK).await;
        answer.leader_node_id = context.client.get_cluster_status().await?.leader_node_id;
    }
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        complain(&format!("the leader is {}", words::id(answer.leader_node_id)));
    }
    Ok(Exit::Ok)
}
