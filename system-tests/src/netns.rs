//! Network namespaces on one bridge, and the filter that cuts one of them off. Needs root. Everything bears the
//! case's mark, and [`sweep`] removes what bears it, whatever became of the case.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Checked;
use crate::program::{Program, output};
use crate::stage::{Stage, installed};

/// Files in `/etc/netns/NAME` stand in for those of `/etc` inside the namespace.
const ETC: &str = "/etc/netns";
/// Where the namespaces of this machine have their names.
const NAMES: &str = "/run/netns";

/// One machine of a small network.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    name: String,
    /// Its address on the bridge.
    pub(crate) address: String,
}

/// Some namespaces that reach each other over a bridge, which stands in a namespace of its own.
pub(crate) fn network(stage: &Stage, count: usize) -> Checked<Vec<Namespace>> {
    let hub = format!("{}hub", stage.mark);
    ip(&["netns", "add", &hub])?;
    ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &hub, "link", "set", "br0", "up"])?;
    let mut members = Vec::new();
    for number in 1..=count {
        let name = format!("{}{number}", stage.mark);
        let (port, address) = (format!("p{number}"), format!("10.77.0.{number}"));
        ip(&["netns", "add", &name])?;
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
        ip(&[&["-n", &hub, "link", "add", &port][..], &peer].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        members.push(Namespace { name, address });
    }
    Ok(members)
}

impl Namespace {
    /// A call that runs inside.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = installed("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Starts a program inside.
    pub(crate) fn start(
        &self,
        stage: &Stage,
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Checked<Program> {
        stage.start(name, self.command(program).args(arguments))
    }

    /// Gives programs inside their own `/etc/FILE`.
    pub(crate) fn etc(&self, file: &str, text: &str) -> Checked<PathBuf> {
        let directory = Path::new(ETC).join(&self.name);
        fs::create_dir_all(&directory)?;
        let path = directory.join(file);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Drops every packet from and to the others.
    pub(crate) fn cut_off(&self) -> Checked {
        self.filter(
            "add rule inet cut in iifname eth0 drop; add rule inet cut out oifname eth0 drop",
        )
    }

    /// Drops every packet from and to these addresses.
    pub(crate) fn cut_off_from(&self, addresses: &[String]) -> Checked {
        let all = addresses.join(", ");
        self.filter(&format!(
            "add rule inet cut in ip saddr {{ {all} }} drop; \
             add rule inet cut out ip daddr {{ {all} }} drop"
        ))
    }

    /// Drops so many of a hundred packets that come in, at random.
    pub(crate) fn lose(&self, percent: u8) -> Checked {
        self.filter(&format!(
            "add rule inet cut in iifname eth0 numgen random mod 100 < {percent} drop"
        ))
    }

    /// Lets packets pass again.
    pub(crate) fn heal(&self) -> Checked {
        self.nft("delete table inet cut")
    }

    /// Gives it one more address of the network.
    pub(crate) fn add_address(&self, address: &str) -> Checked {
        ip(&["-n", &self.name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])
    }

    /// From here on this thread, and what it starts, is on this machine.
    pub(crate) fn enter(&self) -> Checked {
        let file = fs::File::open(Path::new(NAMES).join(&self.name))?;
        rustix::thread::move_into_link_name_space(
            file.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )?;
        Ok(())
    }

    fn filter(&self, rules: &str) -> Checked {
        self.nft(&format!(
            "add table inet cut; \
             add chain inet cut in {{ type filter hook input priority 0; }}; \
             add chain inet cut out {{ type filter hook output priority 0; }}; {rules}"
        ))
    }

    fn nft(&self, rules: &str) -> Checked {
        let nft = installed("nft");
        output(self.command(Path::new(nft.get_program())).arg(rules)).map(drop)
    }
}

fn ip(arguments: &[&str]) -> Checked {
    output(installed("ip").args(arguments)).map(drop)
}

/// The names of all namespaces of this machine.
pub(crate) fn marks() -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Removes every namespace that bears the mark. Their programs must have ended.
pub(crate) fn sweep(mark: &str) -> Checked {
    for place in [NAMES, ETC] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        for name in names.filter(|name| name.starts_with(mark)).collect::<Vec<_>>() {
            if place == NAMES {
                ip(&["netns", "del", &name])?;
            } else {
                fs::remove_dir_all(Path::new(ETC).join(&name))?;
            }
        }
    }
    Ok(())
}
