//! Who belongs to the cluster: taking in, promoting, removing, and handing the lead over. All of it happens on
//! the leader, one change at a time, learner first, by joint consensus; nothing that would leave the cluster
//! without a quorum of answering voters is begun.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant};

use super::errors::AdminError;
use super::shared::{Metrics, Shared};
use super::types::Member;

/// A change that is not committed within this is given up by its caller; it may still be committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

type Changes = ChangeMembers<u64, Member>;

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Receives everything, has no vote.
    Learner,
    /// Has a vote.
    Voter,
}

/// A node that asks to be taken in, or tells its new addresses.
#[derive(Clone, Debug)]
pub(crate) struct Applicant {
    pub(crate) id: u64,
    pub(crate) member: Member,
    /// It wants to stay a learner.
    pub(crate) learner: bool,
    /// The member whose place it takes.
    pub(crate) replace: Option<u64>,
}

impl Shared {
    /// Takes a node in, one step further each time it asks: learner first; voter when it has caught up.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        applicant: Applicant,
    ) -> Result<Standing, AdminError> {
        let _one = self.one_change()?;
        let metrics = self.settled_metrics()?;
        let membership = metrics.membership_config.membership();
        let Applicant { id, member, learner, replace } = applicant;
        check_addresses(membership.nodes(), id, &member, replace)?;
        let voter = membership.voter_ids().any(|voter| voter == id);
        let old = replaced(membership.nodes(), id, &member, replace);
        match membership.get_node(&id) {
            None => {
                let mut changes = vec![ChangeMembers::AddNodes(BTreeMap::from([(id, member)]))];
                // A learner never becomes the voter whose coming would take the replaced one out; and one without a
                // vote can go at once, whoever comes in its place.
                let mut learners = old;
                learners.retain(|old| membership.voter_ids().all(|voter| voter != *old));
                if !learners.is_empty() {
                    changes.push(ChangeMembers::RemoveNodes(learners));
                }
                self.change(ChangeMembers::Batch(changes)).await?;
                return Ok(Standing::Learner);
            }
            Some(known) if *known != member => {
                self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)]))).await?;
                // Whether it answers at its new address shows until it asks again.
                return Ok(if voter { Standing::Voter } else { Standing::Learner });
            }
            Some(_) => {}
        }
        if voter {
            return Ok(Standing::Voter);
        }
        if learner || !self.has_caught_up(&metrics, id) {
            return Ok(Standing::Learner);
        }
        self.make_voter(&metrics, id, replace).await?;
        Ok(Standing::Voter)
    }

    /// Adds a node as a learner.
    pub(crate) async fn add_learner(
        self: &Arc<Self>,
        id: u64,
        member: Member,
    ) -> Result<(), AdminError> {
        let applicant = Applicant { id, member, learner: true, replace: None };
        self.admit(applicant).await.map(|_| ())
    }

    /// Makes a learner a voter.
    pub(crate) async fn promote(self: &Arc<Self>, id: u64) -> Result<(), AdminError> {
        let _one = self.one_change()?;
        let metrics = self.settled_metrics()?;
        if metrics.membership_config.get_node(&id).is_none() {
            return Err(refused(format!("node {id:016x} is no member")));
        }
        if metrics.membership_config.voter_ids().any(|voter| voter == id) {
            return Ok(());
        }
        // It has not asked for this itself: it may be dead, and the change would wait for it, and all others behind it.
        if !self.answers(&metrics, id) {
            return Err(refused(format!("node {id:016x} does not answer: start it first")));
        }
        if !self.has_caught_up(&metrics, id) {
            return Err(refused(format!("node {id:016x} has not caught up with the leader yet")));
        }
        self.make_voter(&metrics, id, None).await
    }

    async fn make_voter(
        self: &Arc<Self>,
        metrics: &Metrics,
        id: u64,
        replace: Option<u64>,
    ) -> Result<(), AdminError> {
        let membership = metrics.membership_config.membership();
        let mut after: BTreeSet<u64> = membership.voter_ids().collect();
        after.insert(id);
        let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
        if let Some(member) = membership.get_node(&id) {
            let old = replaced(membership.nodes(), id, member, replace);
            after.retain(|voter| !old.contains(voter));
            if !old.is_empty() {
                changes.push(ChangeMembers::RemoveVoters(old));
            }
        }
        self.check_quorum(metrics, &after, Some(id))?;
        self.change(ChangeMembers::Batch(changes)).await
    }

    /// Removes a member. A leader that is to be removed hands over first; its successor removes it.
    pub(crate) async fn remove(self: &Arc<Self>, id: u64) -> Result<(), AdminError> {
        if id == self.node_id() && self.leader_metrics()?.membership_config.voter_ids().count() > 1
        {
            self.hand_over(None).await?;
            return Err(AdminError::NoLeader { retry_after: self.retry_after() });
        }
        let _one = self.one_change()?;
        let metrics = self.settled_metrics()?;
        if metrics.membership_config.get_node(&id).is_none() {
            return Err(refused(format!("node {id:016x} is no member")));
        }
        let mut after: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        if !after.remove(&id) {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
        }
        self.check_quorum(&metrics, &after, None)?;
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
    }

    /// Brings a change to its end that a former leader has left half-way, in joint consensus.
    pub(crate) async fn finish_joint(self: &Arc<Self>) {
        let Ok(_one) = self.one_change() else { return };
        let Ok(metrics) = self.leader_metrics() else { return };
        if metrics.committed_membership_config.get_joint_config().len() < 2 {
            return;
        }
        tracing::info!("finish the membership change of a former leader");
        if let Err(error) = self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await {
            tracing::warn!(%error, "finish the membership change of a former leader");
        }
    }

    /// Hands the lead to `to`, or to the voter that is best prepared.
    pub(crate) async fn hand_over(self: &Arc<Self>, to: Option<u64>) -> Result<u64, AdminError> {
        let metrics = self.leader_metrics()?;
        let to = match to {
            Some(to) if to == self.node_id() => return Ok(to),
            Some(to) if metrics.membership_config.voter_ids().any(|voter| voter == to) => to,
            Some(to) => return Err(refused(format!("node {to:016x} is no voter"))),
            None => self
                .best_successor(&metrics)
                .ok_or_else(|| refused("no other voter answers; the lead stays here".to_owned()))?,
        };
        // Another may lead as soon as the others hear of it, long before the lease of this one is over.
        self.handing_over.store(metrics.vote.leader_id.term, Ordering::SeqCst);
        let stopped = |_| AdminError::Stopped;
        self.raft.trigger().transfer_leader(to).await.map_err(stopped)?;
        let deadline = self.settings.outage_max();
        let mut server = self.raft.server_metrics();
        let wait = tokio::time::timeout(deadline, async {
            loop {
                if server.borrow_watched().current_leader == Some(to) {
                    return Ok(());
                }
                server.changed().await.map_err(|_| AdminError::Stopped)?;
            }
        });
        match wait.await {
            Ok(result) => result.map(|()| to),
            Err(_) => {
                Err(AdminError::Unknown(format!("node {to:016x} did not lead in {deadline:?}")))
            }
        }
    }

    fn best_successor(&self, metrics: &Metrics) -> Option<u64> {
        let matched = metrics.replication.as_ref()?;
        let me = self.node_id();
        metrics
            .membership_config
            .voter_ids()
            .filter(|id| *id != me && self.answers(metrics, *id))
            .max_by_key(|id| (matched.get(id).copied().flatten(), std::cmp::Reverse(*id)))
    }

    fn leader_metrics(&self) -> Result<Metrics, AdminError> {
        let metrics = self.metrics();
        match metrics.state.is_leader() && metrics.current_leader == Some(self.node_id()) {
            true => Ok(metrics),
            false => Err(AdminError::NoLeader { retry_after: self.retry_after() }),
        }
    }

    /// What this node knows as a leader that a quorum still follows, with a membership that will stay: what is not
    /// committed may be taken back by another leader, and no answer may be built on it.
    fn settled_metrics(&self) -> Result<Metrics, AdminError> {
        let metrics = self.leader_metrics()?;
        let lease = self.settings.leader_lease();
        if self.quorum_contact_age().is_none_or(|age| age >= lease) {
            return Err(AdminError::NoLeader { retry_after: self.retry_after() });
        }
        let (known, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
        match known.log_id() == committed.log_id() && committed.get_joint_config().len() == 1 {
            true => Ok(metrics),
            false => Err(under_way()),
        }
    }

    fn one_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, AdminError> {
        self.changing.try_lock().map_err(|_| under_way())
    }

    fn has_caught_up(&self, metrics: &Metrics, id: u64) -> bool {
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        let last = metrics.last_log_index.unwrap_or_default();
        matched.is_some_and(|id| last.saturating_sub(id.index) <= self.settings.catch_up_entries)
    }

    /// Whether a member answered its leader lately.
    fn answers(&self, metrics: &Metrics, id: u64) -> bool {
        if id == self.node_id() {
            return true;
        }
        let answered = metrics.heartbeat.as_ref().and_then(|all| all.get(&id).copied().flatten());
        answered.is_some_and(|at| at.elapsed() < 2 * self.settings.election_timeout_max)
    }

    fn check_quorum(
        &self,
        metrics: &Metrics,
        after: &BTreeSet<u64>,
        new: Option<u64>,
    ) -> Result<(), AdminError> {
        if after.is_empty() {
            return Err(refused("this is the last voter: the cluster would end".to_owned()));
        }
        let answering =
            after.iter().filter(|id| Some(**id) == new || self.answers(metrics, **id)).count();
        let quorum = after.len() / 2 + 1;
        if answering < quorum {
            return Err(refused(format!(
                "of the {} voters that there would be only {answering} answer, {quorum} are \
                 needed: bring the others back first",
                after.len()
            )));
        }
        Ok(())
    }

    /// Commits a change, both its steps. Runs to its end even if the caller goes away between the two.
    async fn change(self: &Arc<Self>, changes: Changes) -> Result<(), AdminError> {
        let raft = self.raft.clone();
        let what = changes.to_string();
        let work = self.tasks.spawn(async move {
            // Removed voters are forgotten, not kept as learners.
            raft.change_membership(changes, false).await
        });
        let result = match tokio::time::timeout(CHANGE_TIMEOUT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => return Err(AdminError::Stopped),
            Err(_) => {
                let text = format!("{what} was not committed in {CHANGE_TIMEOUT:?}");
                return Err(AdminError::Unknown(text));
            }
        };
        match result {
            Ok(_) => {
                tracing::info!(what, "membership changed");
                Ok(())
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(AdminError::NoLeader { retry_after: self.retry_after() })
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(AdminError::Unknown(format!("the leader changed during {what}")))
            }
            Err(RaftError::APIError(error)) => Err(refused(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(AdminError::Stopped),
        }
    }
}

fn refused(text: String) -> AdminError {
    AdminError::Refused(text)
}

fn under_way() -> AdminError {
    refused("another change of the membership is under way; try again later".to_owned())
}

/// Two members at one address are one node that lost its disk: the old one must be named to be replaced. Where it lost its
/// disk more than once, one of the old ones.
fn check_addresses<'a>(
    members: impl Iterator<Item = (&'a u64, &'a Member)>,
    id: u64,
    member: &Member,
    replace: Option<u64>,
) -> Result<(), AdminError> {
    let there: BTreeMap<u64, &Member> =
        members.filter(|(_, known)| known.peer == member.peer).map(|(id, m)| (*id, m)).collect();
    // A member at its address has been taken in there before, and what it replaces was named then.
    if there.contains_key(&id) || replace.is_some_and(|old| there.contains_key(&old)) {
        return Ok(());
    }
    match there.first_key_value() {
        None => Ok(()),
        Some((other, known)) => Err(refused(format!(
            "peer address {} belongs to member {other:016x} ({}): if node {id:016x} takes its \
             place, add it with --replace {other:016x}",
            member.peer, known.name
        ))),
    }
}

/// Whose place a node takes: the member that it names, and whoever was at its address before.
fn replaced<'a>(
    members: impl Iterator<Item = (&'a u64, &'a Member)>,
    id: u64,
    member: &Member,
    replace: Option<u64>,
) -> BTreeSet<u64> {
    let old = |(other, known): &(&u64, &Member)| {
        **other != id && (Some(**other) == replace || known.peer == member.peer)
    };
    members.filter(old).map(|(other, _)| *other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16) -> Member {
        let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let name = format!("n{port}");
        Member { name, api: at(port + 1), http: at(port + 2), dns: at(port + 3), peer: at(port) }
    }

    #[test]
    fn a_node_that_loses_its_disk_twice_takes_the_place_of_all_that_it_was() {
        let members = BTreeMap::from([(1, member(10)), (2, member(20)), (3, member(20))]);
        let (here, elsewhere) = (member(20), member(30));
        for named in [2, 3] {
            check_addresses(members.iter(), 4, &here, Some(named)).unwrap();
            assert_eq!(replaced(members.iter(), 4, &here, Some(named)), BTreeSet::from([2, 3]));
        }
        for named in [None, Some(1), Some(9)] {
            check_addresses(members.iter(), 4, &here, named).unwrap_err();
        }
        check_addresses(members.iter(), 4, &elsewhere, Some(1)).unwrap();
        assert_eq!(replaced(members.iter(), 4, &elsewhere, Some(1)), BTreeSet::from([1]));
        check_addresses(members.iter(), 3, &here, Some(9)).unwrap();
        assert_eq!(replaced(members.iter(), 3, &here, Some(9)), BTreeSet::from([2]));
    }
}
