//! etcd: one member or three, with default settings.

use super::{Lab, Program, READY, Size};
use crate::{
    load::etcd::status,
    outcome::Outcome,
    process::{self, Process, Used},
};
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep};

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) api: SocketAddr,
    pub(crate) process: Process,
}

#[derive(Debug)]
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
}

impl Etcd {
    pub(crate) async fn start(lab: &Lab, size: Size) -> Outcome<Self> {
        let program = Program::Etcd.path()?;
        let mut places = Vec::new();
        for number in 1..=size.members() {
            places.push((format!("e{number}"), process::port()?, process::port()?));
        }
        let cluster: Vec<String> = places
            .iter()
            .map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}"))
            .collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for (name, api, peer) in places {
            let directory = lab.fresh(&name)?;
            let (api_url, peer_url) =
                (format!("http://127.0.0.1:{api}"), format!("http://127.0.0.1:{peer}"));
            let process = Process::new(&name, &program, size.place(), &directory)
                .arguments(["--name", &name])
                .arguments(["--data-dir", &directory.join("data").to_string_lossy()])
                .arguments(["--listen-client-urls", &api_url, "--advertise-client-urls", &api_url])
                .arguments(["--listen-peer-urls", &peer_url])
                .arguments(["--initial-advertise-peer-urls", &peer_url])
                .arguments(["--initial-cluster", &cluster])
                // The default of 2 GB is too little for a million keys and leases.
                .arguments(["--log-level", "error", "--quota-backend-bytes", "8589934592"]);
            members.push(Member { api: ([127, 0, 0, 1], api).into(), process });
        }
        for member in &mut members {
            member.process.start()?;
        }
        for member in &mut members {
            member.ready().await?;
        }
        Ok(Self { members })
    }

    /// Index of the member that leads.
    pub(crate) async fn leader(&self) -> Outcome<usize> {
        let until = Instant::now() + READY;
        while Instant::now() < until {
            for (at, member) in self.members.iter().enumerate() {
                if !member.process.is_running() {
                    continue;
                }
                let Ok(status) = status(member.api).await else { continue };
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(at);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(format!("a leader of etcd: not within {READY:?}").into())
    }

    /// Ends and starts every member: etcd answers several times faster afterwards than right after it was filled.
    pub(crate) async fn restart(&mut self) -> Outcome {
        for member in &mut self.members {
            member.process.stop();
            member.process.start()?;
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.pid()).collect()
    }

    pub(crate) fn used(&self) -> Outcome<Used> {
        process::used(&self.pids())
    }
}

impl Member {
    /// Waits until it knows a leader.
    pub(crate) async fn ready(&mut self) -> Outcome {
        let until = Instant::now() + READY;
        while Instant::now() < until {
            self.process.check()?;
            if status(self.api).await.is_ok_and(|status| status.leader != 0) {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Err(format!("etcd on {}: not ready within {READY:?}", self.api).into())
    }
}
