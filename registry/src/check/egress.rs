//! Where this node may connect to when it probes, and where it lists instances. A registry that probes is a tool for
//! reaching what its callers cannot: so every address is looked at before every connection, whatever was accepted at
//! registration. The rules are those of [`rollcall_core::egress`]; here stands what they need to know of this cluster.

use crate::raft::Member;
use arc_swap::ArcSwap;
use rollcall_core::egress::{Forbidden, Rules};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Decides for every connection. Clones share what they know of the members.
#[derive(Debug, Clone)]
pub struct Egress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: ArcSwap<Rules>,
    /// What this node itself listens on.
    bound: Vec<SocketAddr>,
    /// The addresses of this machine, on which a wildcard listens as well.
    machine: ArcSwap<Vec<IpAddr>>,
}

impl Egress {
    /// Knows of nobody but this node until [`Egress::know`] names the members.
    pub fn new(allow_loopback: bool, bound: Vec<SocketAddr>) -> Self {
        let rules = ArcSwap::from_pointee(Rules { allow_loopback, members: bound.clone() });
        Self(Arc::new(Inner { rules, bound, machine: ArcSwap::default() }))
    }

    /// Takes over the addresses of this machine.
    pub fn know_machine(&self, machine: Vec<IpAddr>) {
        self.0.machine.store(Arc::new(machine));
    }

    /// Takes over where the members listen, as announced.
    pub fn know(&self, members: &BTreeMap<u64, Member>) {
        let (bound, machine) = (&self.0.bound, self.0.machine.load());
        let wildcards = bound.iter().filter(|address| address.ip().is_unspecified());
        let here = wildcards
            .flat_map(|address| machine.iter().map(|ip| SocketAddr::new(*ip, address.port())));
        let announced = members.values().flat_map(Member::addresses);
        let all: BTreeSet<SocketAddr> =
            announced.chain(bound.iter().copied()).chain(here).collect();
        let rules = self.0.rules.load();
        if !all.iter().eq(&rules.members) {
            let allow_loopback = rules.allow_loopback;
            let rules = Rules { allow_loopback, members: all.into_iter().collect() };
            self.0.rules.store(Arc::new(rules));
        }
    }

    /// The rules as known now.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.rules.load_full()
    }

    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Forbidden> {
        self.0.rules.load().check(address)
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
        let egress = Egress::new(true, Vec::new());
        egress.know(&BTreeMap::from([(1, member("10.0.0.1")), (2, member("127.0.0.1"))]));
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
        let egress = Egress::new(true, vec![at("0.0.0.0:8502"), at("10.0.0.1:8300")]);
        egress.know_machine(vec!["192.168.1.7".parse().unwrap()]);
        egress.know(&BTreeMap::new());
        for address in ["127.0.0.1:8502", "[::1]:8502", "192.168.1.7:8502", "10.0.0.1:8300"] {
            assert_eq!(egress.check(at(address)), Err(Forbidden::Member), "{address}");
        }
        for address in ["10.0.0.1:8502", "127.0.0.1:8300", "192.168.1.7:8300"] {
            assert_eq!(egress.check(at(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn what_no_instance_can_have_is_refused_whatever_is_known() {
        let egress = Egress::new(true, Vec::new());
        for address in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::]:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "[fe80::1]:80",
        ] {
            assert!(egress.check(at(address)).is_err(), "{address}");
        }
        assert_eq!(egress.check(at("127.0.0.1:80")), Ok(()));
        let strict = Egress::new(false, Vec::new());
        assert_eq!(strict.check(at("127.0.0.1:80")), Err(Forbidden::Loopback));
    }
}
