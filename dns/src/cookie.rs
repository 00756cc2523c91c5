//! Server cookies: a client that shows one has been reached at its address before (RFC 7873, RFC 9018).
//!
//! No state: the cookie proves itself by a keyed hash, and every node of the cluster has the key.

use crate::catalog::CookieSecret;
use siphasher::sip::SipHasher24;
use std::{hash::Hasher, net::IpAddr};

/// Version, reserved, timestamp, hash (RFC 9018 section 4).
const SERVER: usize = 16;
const VERSION: u8 = 1;
/// How long a cookie is good, in seconds.
const GOOD_FOR: i32 = 3600;
/// From which age on a cookie is replaced.
const RENEW_AFTER: i32 = 1800;
/// How far another node's clock may be ahead.
const AHEAD: i32 = 300;

/// What a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    client: [u8; 8],
    /// Only a cookie of our own length can be ours; others are as good as none.
    server: Option<[u8; SERVER]>,
}

/// What the cookie of a query comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Whether the client was reached at its address within the last hour.
    pub valid: bool,
    /// What the reply carries.
    pub reply: [u8; 8 + SERVER],
}

impl Given {
    /// Reads the option. `None`: it has a length that no cookie has (RFC 7873 section 5.2.2).
    pub(crate) fn read(option: &[u8]) -> Option<Self> {
        let (client, server) = option.split_first_chunk::<8>()?;
        if !(server.is_empty() || (8..=32).contains(&server.len())) {
            return None;
        }
        Some(Self { client: *client, server: server.try_into().ok() })
    }

    /// Checks the server's part and makes the one that is to be replied. `unix` are seconds since 1970.
    pub(crate) fn judge(&self, secret: &CookieSecret, peer: IpAddr, unix: u64) -> Judged {
        let ours = self.server.filter(|[head @ .., h0, h1, h2, h3, h4, h5, h6, h7]| {
            hash(secret, self.client, *head, peer) == [*h0, *h1, *h2, *h3, *h4, *h5, *h6, *h7]
        });
        let age = ours.and_then(|server| age(&server, unix));
        let valid = age.is_some();
        let server = match ours {
            Some(server) if age.is_some_and(|age| age < RENEW_AFTER) => server,
            Some(_) | None => make(secret, self.client, peer, unix),
        };
        let mut reply = [0; 8 + SERVER];
        reply[..8].copy_from_slice(&self.client);
        reply[8..].copy_from_slice(&server);
        Judged { valid, reply }
    }
}

/// Seconds since the cookie was made, in serial number arithmetic (RFC 1982). `None`: it cannot be good.
fn age(server: &[u8; SERVER], unix: u64) -> Option<i32> {
    let made = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
    let age = seconds(unix).wrapping_sub(made).cast_signed();
    (server[0] == VERSION && (-AHEAD..=GOOD_FOR).contains(&age)).then_some(age)
}

fn seconds(unix: u64) -> u32 {
    u32::try_from(unix & u64::from(u32::MAX)).unwrap_or_default()
}

fn make(secret: &CookieSecret, client: [u8; 8], peer: IpAddr, unix: u64) -> [u8; SERVER] {
    let mut server = [0; SERVER];
    server[0] = VERSION;
    server[4..8].copy_from_slice(&seconds(unix).to_be_bytes());
    let [head @ .., _, _, _, _, _, _, _, _] = server;
    server[8..].copy_from_slice(&hash(secret, client, head, peer));
    server
}

fn hash(secret: &CookieSecret, client: [u8; 8], head: [u8; 8], peer: IpAddr) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(&secret.0);
    hasher.write(&client);
    hasher.write(&head);
    match peer.to_canonical() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    fn secret(hex: &str) -> CookieSecret {
        CookieSecret(bytes(hex))
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    #[test]
    fn the_vectors_of_rfc_9018_appendix_a_come_out() {
        let cases = [
            // Learning a new server cookie.
            (
                secret(SECRET),
                "198.51.100.100",
                "2464c4abcf10c957",
                "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
                false,
            ),
            // The same client learning a renewed one.
            (
                secret(SECRET),
                "198.51.100.100",
                "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
                "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
                true,
            ),
            // Another client, whose reserved bytes are not zero.
            (
                secret(SECRET),
                "203.0.113.203",
                "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
                "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
                false,
            ),
            // IPv6, and the new one of two secrets: a cookie of the old one is good no more.
            (
                secret("445536bcd2513298075a5d379663c962"),
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
                false,
            ),
        ];
        for (secret, peer, given, expected, valid) in cases {
            let expected: [u8; 24] = bytes(expected);
            let unix = u32::from_be_bytes(*expected[12..].first_chunk().unwrap());
            let given: Vec<u8> = given
                .as_bytes()
                .chunks(2)
                .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap())
                .collect();
            let given = Given::read(&given).unwrap();
            let judged = given.judge(&secret, peer.parse().unwrap(), unix.into());
            assert_eq!(judged, Judged { valid, reply: expected }, "{peer}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_from_its_own_address_and_renewed_after_half_of_it() {
        let secret = secret(SECRET);
        let peer = "10.0.0.1".parse().unwrap();
        let made = Given::read(&[7; 8]).unwrap().judge(&secret, peer, 10_000).reply;
        let given = Given::read(&made).unwrap();
        let at = |unix| given.judge(&secret, peer, unix);
        assert_eq!(at(10_000), Judged { valid: true, reply: made });
        assert_eq!(at(11_799), Judged { valid: true, reply: made });
        assert!(at(11_800).valid && at(11_800).reply != made);
        assert!(at(13_600).valid);
        assert!(!at(13_601).valid);
        assert!(at(9_700).valid);
        assert!(!at(9_699).valid);
        assert!(!given.judge(&secret, "10.0.0.2".parse().unwrap(), 10_000).valid);
        assert!(given.judge(&secret, "::ffff:10.0.0.1".parse().unwrap(), 10_000).valid);
    }

    #[test]
    fn a_cookie_of_an_impossible_length_is_refused_and_a_strange_one_is_as_good_as_none() {
        for length in [0, 7, 9, 15, 41] {
            assert_eq!(Given::read(&vec![1; length]), None, "{length}");
        }
        for length in [8, 16, 23, 25, 40] {
            let given = Given::read(&vec![1; length]).unwrap();
            let judged = given.judge(&secret(SECRET), "10.0.0.1".parse().unwrap(), 0);
            assert!(!judged.valid, "{length}");
        }
    }
}
