//! HTTPS and SVCB records (RFC 9460): port, protocols and addresses of a service in one answer.
//!
//! Only for instances whose metadata says `alpn` (`h2,http/1.1`): an HTTPS record makes browsers speak TLS, which no
//! other word of a registration promises.

use crate::{
    choose,
    instances::{Address, Instance},
    wire,
};
use hickory_proto::rr::{
    Name, RData,
    rdata::{
        A, AAAA, SVCB,
        svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue},
    },
};
use std::{collections::BTreeMap, net::IpAddr};

/// The metadata key.
const ALPN: &str = "alpn";
/// Most protocols of one record.
const ALPN_MAX: usize = 8;
/// Longest name of a protocol.
const ALPN_BYTES: usize = 32;
/// Most addresses of one family in one record: they are hints, the name has the others.
const HINTS_MAX: usize = 8;

/// The data of the records, one for each port and list of protocols. `client` and `random` choose the hints.
pub(crate) fn bindings(instances: &[Instance], client: u64, random: u64) -> Vec<Vec<u8>> {
    let mut groups = BTreeMap::<(u16, Vec<String>), Vec<&Instance>>::new();
    for instance in instances {
        let Some(alpn) = instance.record.spec.metadata(ALPN) else { continue };
        let words = alpn.split(',').map(str::trim);
        let known = words.filter(|word| !word.is_empty() && word.len() <= ALPN_BYTES);
        let protocols: Vec<String> = known.take(ALPN_MAX).map(str::to_owned).collect();
        if !protocols.is_empty() {
            let key = (instance.endpoint.address.port(), protocols);
            groups.entry(key).or_default().push(instance);
        }
    }
    let record = |((port, protocols), group): ((u16, Vec<String>), Vec<&Instance>)| {
        let mut parameters = vec![
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols))),
            (SvcParamKey::Port, SvcParamValue::Port(port)),
        ];
        let (v4, v6) = hints(&group, client, random);
        // The keys stand in the order of their numbers (RFC 9460 section 2.2).
        if !v4.is_empty() {
            parameters.push((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(v4))));
        }
        if !v6.is_empty() {
            parameters.push((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(v6))));
        }
        wire::data(&RData::SVCB(SVCB::new(1, Name::root(), parameters)))
    };
    groups.into_iter().filter_map(record).collect()
}

fn hints(group: &[&Instance], client: u64, random: u64) -> (Vec<A>, Vec<AAAA>) {
    let family = |v4: bool| {
        let mut weights = BTreeMap::<IpAddr, u32>::new();
        for instance in group {
            if let Some(ip) = instance.address(v4) {
                *weights.entry(ip).or_default() += u32::from(instance.record.effective_weight());
            }
        }
        let mut chosen: Vec<Address> =
            weights.into_iter().map(|(ip, weight)| Address { ip, weight }).collect();
        choose::rank(&mut chosen, client);
        chosen.truncate(HINTS_MAX);
        choose::shuffle(&mut chosen, random);
        chosen.into_iter().map(|address| address.ip)
    };
    let v4 = family(true).filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(A(ip)),
        IpAddr::V6(_) => None,
    });
    let v6 = family(false).filter_map(|ip| match ip {
        IpAddr::V6(ip) => Some(AAAA(ip)),
        IpAddr::V4(_) => None,
    });
    (v4.collect(), v6.collect())
}
