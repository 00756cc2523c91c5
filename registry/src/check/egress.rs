//! Where this node may connect to when it probes. A registry that probes is a tool for reaching what its callers
//! cannot: so every address is looked at before every connection, whatever was accepted at registration.
//!
//! Which addresses no instance can have is decided in [`rollcall_core::egress`]; here stand the ports of the members.

use crate::raft::Member;
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Decides for every connection. Clones share what they know of the members.
#[derive(Debug, Clone)]
pub struct Egress {
    allow_loopback: bool,
    members: Arc<ArcSwap<Ports>>,
}

/// What the members listen on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ports {
    /// As announced.
    exact: BTreeSet<SocketAddr>,
    /// On every address of this machine.
    local: BTreeSet<u16>,
    /// The addresses of this machine besides loopback.
    machine: BTreeSet<IpAddr>,
}

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// A member of this cluster listens there.
    #[error("a registry node listens there")]
    Member,
    /// Loopback, where this registry is not one of loopback alone.
    #[error("it is loopback; checks.allow_loopback = true on every member allows that")]
    Loopback,
}

impl Egress {
    /// Decides alone until [`Egress::know`] names the members.
    pub fn new(allow_loopback: bool) -> Self {
        Self { allow_loopback, members: Arc::default() }
    }

    /// Takes over where the members listen: as announced; as bound by this node itself; and `machine`, the addresses
    /// of this machine, on which a wildcard listens as well.
    pub fn know(&self, members: &BTreeMap<u64, Member>, bound: &[SocketAddr], machine: &[IpAddr]) {
        let announced = members.values().flat_map(Member::addresses);
        let exact: BTreeSet<SocketAddr> = announced.chain(bound.iter().copied()).collect();
        let here = |a: &&SocketAddr| a.ip().is_loopback() || a.ip().is_unspecified();
        let local = exact.iter().filter(here).map(SocketAddr::port).collect();
        let ports = Ports { exact, local, machine: machine.iter().copied().collect() };
        if **self.members.load() != ports {
            self.members.store(Arc::new(ports));
        }
    }

    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Forbidden> {
        let ip = address.ip().to_canonical();
        let known = self.members.load();
        let here = ip.is_loopback() || known.machine.contains(&ip);
        if known.exact.contains(&SocketAddr::new(ip, address.port()))
            || (here && known.local.contains(&address.port()))
        {
            return Err(Forbidden::Member);
        }
        if ip.is_loopback() && !self.allow_loopback {
            return Err(Forbidden::Loopback);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str) -> Member {
        let at = |port| SocketAddr::new(address.parse().unwrap(), port);
        Member { name: "n".into(), api: at(8502), http: at(8500), dns: at(8600), peer: at(8300) }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_port_of_a_member_is_probed() {
        let egress = Egress::new(true);
        let members = BTreeMap::from([(1, member("10.0.0.1")), (2, member("127.0.0.1"))]);
        egress.know(&members, &[], &[]);
        for port in [8502, 8500, 8600, 8300] {
            for ip in ["10.0.0.1", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:10.0.0.1]"] {
                let address = at(&format!("{ip}:{port}"));
                assert_eq!(egress.check(address), Err(Forbidden::Member), "{address}");
            }
            assert_eq!(egress.check(at(&format!("10.0.0.2:{port}"))), Ok(()));
        }
        assert_eq!(egress.check(at("10.0.0.1:80")), Ok(()));
    }

    #[test]
    fn a_wildcard_listens_on_every_address_of_the_machine() {
        let egress = Egress::new(true);
        let machine = ["192.168.1.7".parse().unwrap()];
        egress.know(&BTreeMap::new(), &[at("0.0.0.0:8502"), at("10.0.0.1:8300")], &machine);
        for address in ["127.0.0.1:8502", "[::1]:8502", "192.168.1.7:8502", "10.0.0.1:8300"] {
            assert_eq!(egress.check(at(address)), Err(Forbidden::Member), "{address}");
        }
        for address in ["10.0.0.1:8502", "127.0.0.1:8300", "192.168.1.7:8300"] {
            assert_eq!(egress.check(at(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn loopback_needs_a_permission() {
        for address in ["127.0.0.1:80", "127.255.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(Egress::new(false).check(at(address)), Err(Forbidden::Loopback));
            assert_eq!(Egress::new(true).check(at(address)), Ok(()));
        }
    }
}
