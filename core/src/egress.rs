//! Which addresses no instance can have, because a registry that probes them, and every caller that trusts it, would
//! reach what the registrant could not: the metadata of a cloud machine, the machine itself, the registry.
//!
//! Asked at registration, with or without checks, and again before every connection. An IPv6 address that carries an
//! IPv4 address is judged by both. Special ranges: RFC 6890; addresses within addresses: RFC 4291, 6052, 3056, 4380.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why an address cannot be one of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Forbidden {
    /// `0.0.0.0/8`, `::`.
    #[error("it means this machine or none; register the address that callers use")]
    Unspecified,
    /// `255.255.255.255`.
    #[error("a broadcast address is not one instance")]
    Broadcast,
    /// `224.0.0.0/4`, `ff00::/8`.
    #[error("a multicast address is not one instance")]
    Multicast,
    /// `169.254.0.0/16`, `fe80::/10`.
    #[error("a link-local address means another machine on every link")]
    LinkLocal,
    /// Where cloud machines read their credentials.
    #[error("cloud machines read their credentials there")]
    Metadata,
    /// `240.0.0.0/4`.
    #[error("the range is reserved")]
    Reserved,
    /// `127.0.0.0/8`, `::1`.
    #[error("it is loopback; a registry that listens on other addresses too takes none of those")]
    Loopback,
    /// A member of this cluster listens there.
    #[error("a registry node listens there")]
    Member,
}

/// What else is forbidden on a node.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Loopback is allowed: every listener of the registry is loopback.
    pub allow_loopback: bool,
    /// Where the members listen, as announced.
    pub members: Vec<SocketAddr>,
}

impl Rules {
    /// Whether an instance may be at this address.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Forbidden> {
        check_range(address.ip())?;
        let ip = address.ip().to_canonical();
        if meanings(ip).any(|ip| self.is_member(ip, address.port())) {
            return Err(Forbidden::Member);
        }
        if ip.is_loopback() && !self.allow_loopback {
            return Err(Forbidden::Loopback);
        }
        Ok(())
    }

    /// Whether a member listens there.
    fn is_member(&self, ip: IpAddr, port: u16) -> bool {
        self.members.iter().filter(|member| member.port() == port).any(|member| {
            // A wildcard listens on loopback too, and all of loopback is one machine.
            let everywhere = member.ip().is_unspecified() || member.ip().is_loopback();
            (everywhere && ip.is_loopback())
                || meanings(member.ip().to_canonical()).any(|member| member == ip)
        })
    }
}

/// An address, and the IPv4 addresses that it carries.
fn meanings(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match ip {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(v6) => carried(v6),
    };
    std::iter::once(ip).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

/// Whether an address is in a range that no instance can be in, wherever the registry runs. Loopback, which is a
/// matter of [`Rules`], passes as such and v4-mapped, but not inside another address.
///
/// # Errors
/// Why not.
pub fn check_range(ip: IpAddr) -> Result<(), Forbidden> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => range_v4(v4),
        IpAddr::V6(v6) => {
            range_v6(v6)?;
            for inner in carried(v6).into_iter().flatten() {
                range_v4(inner)?;
                if inner.is_loopback() {
                    return Err(Forbidden::Loopback);
                }
            }
            Ok(())
        }
    }
}

/// Where Amazon, Google, Azure, Alibaba, Oracle and Scaleway machines read their metadata and credentials.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Amazon has all of `fd00:ec2::/32`, see [`range_v6`].
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x0100, 0, 0, 0, 0, 0x0100, 0x0200),
    Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042),
];

fn range_v4(ip: Ipv4Addr) -> Result<(), Forbidden> {
    if METADATA_V4.contains(&ip) {
        return Err(Forbidden::Metadata);
    }
    match ip.octets() {
        [0, ..] => Err(Forbidden::Unspecified),
        [169, 254, ..] => Err(Forbidden::LinkLocal),
        [255, 255, 255, 255] => Err(Forbidden::Broadcast),
        [224..=239, ..] => Err(Forbidden::Multicast),
        [240..=255, ..] => Err(Forbidden::Reserved),
        _ => Ok(()),
    }
}

fn range_v6(ip: Ipv6Addr) -> Result<(), Forbidden> {
    let of_amazon = matches!(ip.segments(), [0xfd00, 0x0ec2, ..]);
    if of_amazon || METADATA_V6.contains(&ip) {
        Err(Forbidden::Metadata)
    } else if ip.is_unspecified() {
        Err(Forbidden::Unspecified)
    } else if ip.is_multicast() {
        Err(Forbidden::Multicast)
    } else if ip.segments()[0] & 0xffc0 == 0xfe80 {
        Err(Forbidden::LinkLocal)
    } else {
        Ok(())
    }
}

/// The IPv4 addresses inside an IPv6 address that is not v4-mapped: some forms have two, some can be read in two ways.
fn carried(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let bits = ip.to_bits();
    let at = |end: u32| v4_at(bits, end);
    let tail = at(128);
    match ip.segments() {
        // ::1 is loopback itself, and :: was refused before.
        [0, 0, 0, 0, 0, 0, 0, 1] => [None, None],
        // IPv4-compatible and IPv4-translated (SIIT).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [tail, None],
        // NAT64 with the well-known prefix.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [tail, None],
        // NAT64 with a local prefix: as /96, or as /48, where bits 64 to 71 are left out (RFC 6052 section 2.2). A
        // reading that gives nothing but padding is not the one that was meant.
        [0x64, 0xff9b, 1, ..] => {
            let high = u128_part(bits, 64, 16);
            let low = u128_part(bits, 88, 16);
            let meant = |ip: &Ipv4Addr| ip.octets()[0] != 0;
            let short = Some(Ipv4Addr::from_bits(high << 16 | low));
            [tail.filter(meant), short.filter(meant)]
        }
        // 6to4: after the prefix of 16 bits.
        [0x2002, ..] => [at(48), None],
        // Teredo: the server, and the client with every bit turned.
        [0x2001, 0, ..] => [at(64), tail.map(|client| Ipv4Addr::from_bits(!client.to_bits()))],
        // ISATAP (RFC 5214): in any prefix.
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => [tail, None],
        _ => [None, None],
    }
}

/// The IPv4 address whose last bit is number `end` of the address, counted from 1.
fn v4_at(bits: u128, end: u32) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from_bits(u128_part(bits, end, 32)))
}

/// `width` bits, at most 32, that end with number `end`.
#[expect(clippy::cast_possible_truncation, reason = "masked to at most 32 bits")]
fn u128_part(bits: u128, end: u32, width: u32) -> u32 {
    ((bits >> (128 - end)) & ((1 << width) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(ip: &str) -> Option<Forbidden> {
        check_range(ip.parse().unwrap()).err()
    }

    #[test]
    fn every_forbidden_range_is_refused_up_to_its_edges() {
        let cases = [
            ("0.0.0.0", Forbidden::Unspecified),
            ("0.255.255.255", Forbidden::Unspecified),
            ("169.254.0.0", Forbidden::LinkLocal),
            ("169.254.255.255", Forbidden::LinkLocal),
            ("169.254.169.254", Forbidden::Metadata),
            ("169.254.170.2", Forbidden::Metadata),
            ("100.100.100.200", Forbidden::Metadata),
            ("168.63.129.16", Forbidden::Metadata),
            ("192.0.0.192", Forbidden::Metadata),
            ("224.0.0.1", Forbidden::Multicast),
            ("239.255.255.255", Forbidden::Multicast),
            ("240.0.0.0", Forbidden::Reserved),
            ("255.255.255.254", Forbidden::Reserved),
            ("255.255.255.255", Forbidden::Broadcast),
            ("::", Forbidden::Unspecified),
            ("fe80::1", Forbidden::LinkLocal),
            ("febf::1", Forbidden::LinkLocal),
            ("ff02::1", Forbidden::Multicast),
            ("fd00:ec2::254", Forbidden::Metadata),
            ("fd00:ec2::", Forbidden::Metadata),
            ("fd00:ec2::23", Forbidden::Metadata),
            ("fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", Forbidden::Metadata),
            ("fd20:ce::254", Forbidden::Metadata),
            ("fd00:c1::a9fe:a9fe", Forbidden::Metadata),
            ("fd00:100::100:200", Forbidden::Metadata),
            ("fd00:42::42", Forbidden::Metadata),
        ];
        for (ip, why) in cases {
            assert_eq!(range(ip), Some(why), "{ip}");
        }
    }

    #[test]
    fn what_an_address_carries_is_judged_too() {
        let cases = [
            ("::ffff:169.254.169.254", Forbidden::Metadata),
            ("::169.254.169.254", Forbidden::Metadata),
            ("::ffff:0:169.254.169.254", Forbidden::Metadata),
            ("64:ff9b::a9fe:a9fe", Forbidden::Metadata),
            ("64:ff9b:1::a9fe:a9fe", Forbidden::Metadata),
            // 169.254.169.254 after 64:ff9b:1::/48: bits 48-63 and 72-87.
            ("64:ff9b:1:a9fe:a9:fe00::", Forbidden::Metadata),
            ("2002:a9fe:a9fe::1", Forbidden::Metadata),
            // The server of Teredo, then the client: 169.254.169.254 with every bit turned.
            ("2001:0:a9fe:a9fe::", Forbidden::Metadata),
            ("2001:0:0808:0808:0:0:5601:5601", Forbidden::Metadata),
            ("2001:db8::5efe:a9fe:a9fe", Forbidden::Metadata),
            ("2001:db8::200:5efe:a9fe:a9fe", Forbidden::Metadata),
            ("2002:7f00:1::", Forbidden::Loopback),
            ("64:ff9b::7f00:1", Forbidden::Loopback),
            ("::127.0.0.1", Forbidden::Loopback),
            ("64:ff9b::e000:1", Forbidden::Multicast),
            ("::ffff:0.0.0.0", Forbidden::Unspecified),
        ];
        for (ip, why) in cases {
            assert_eq!(range(ip), Some(why), "{ip}");
        }
    }

    #[test]
    fn ordinary_addresses_pass() {
        for ip in [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "100.100.100.201",
            "169.253.255.255",
            "223.255.255.255",
            "1.0.0.0",
            "2001:db8::1",
            "fd00::1",
            "fd00:ec1:ffff::254",
            "fd00:ec3::254",
            "fd00:c1::1",
            "fd00:100::1",
            "fd00:42::43",
            "fec0::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert_eq!(range(ip), None, "{ip}");
        }
    }

    #[test]
    fn a_local_prefix_is_read_in_both_ways_and_either_condemns() {
        assert_eq!(range("64:ff9b:1:a00:0:100::"), None);
        assert_eq!(range("64:ff9b:1::a00:1"), None);
        assert_eq!(range("64:ff9b:1:a00:0:100:a9fe:a9fe"), Some(Forbidden::Metadata));
        assert_eq!(range("64:ff9b:1:a9fe:a9:fe00:a00:1"), Some(Forbidden::Metadata));
    }

    #[test]
    fn no_port_of_a_member_is_an_instance() {
        let members = ["10.0.0.1:8502", "127.0.0.1:8300", "0.0.0.0:8600"];
        let members = members.map(|member| member.parse().unwrap()).to_vec();
        let rules = Rules { allow_loopback: true, members };
        let check = |address: &str| rules.check(address.parse().unwrap()).err();
        for address in [
            "10.0.0.1:8502",
            "[::ffff:10.0.0.1]:8502",
            "127.0.0.1:8300",
            "127.9.9.9:8300",
            "[::1]:8300",
            "127.0.0.1:8600",
            // Inside NAT64, with the well-known and a local prefix, 6to4 and ISATAP.
            "[64:ff9b::a00:1]:8502",
            "[64:ff9b:1::a00:1]:8502",
            "[64:ff9b:1:a00:0:100::]:8502",
            "[2002:a00:1::]:8502",
            "[2001:db8::5efe:a00:1]:8502",
        ] {
            assert_eq!(check(address), Some(Forbidden::Member), "{address}");
        }
        for address in [
            "10.0.0.1:80",
            "10.0.0.2:8502",
            "127.0.0.1:8502",
            "10.0.0.1:8300",
            "[64:ff9b::a00:1]:80",
            "[64:ff9b::a00:2]:8502",
            "[2002:a00:2::]:8502",
        ] {
            assert_eq!(check(address), None, "{address}");
        }
    }

    #[test]
    fn loopback_needs_a_registry_on_loopback() {
        let rules = |allow_loopback| Rules { allow_loopback, members: Vec::new() };
        for address in ["127.0.0.1:80", "127.255.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            let address = address.parse().unwrap();
            assert_eq!(rules(false).check(address), Err(Forbidden::Loopback), "{address}");
            assert_eq!(rules(true).check(address), Ok(()), "{address}");
        }
    }
}
