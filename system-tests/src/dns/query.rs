//! dig and kdig: what people have at hand when something is wrong.

use std::net::SocketAddr;

use super::ask::{dig, kdig};
use crate::case::{Checked, Need, check};
use crate::registry::{DOMAIN, Registry};
use crate::stage::Stage;

/// What these cases need.
pub(super) const NEEDS: &[Need] = &[Need::Program("dig"), Need::Program("kdig")];

/// A registry with one service of three instances, one of them with IPv6, and another namespace.
fn registry(stage: &Stage) -> Checked<Registry> {
    let registry = Registry::start(stage, 1, &[("dns.nsid", "n-of-one"), ("dns.ttl", "7s")])?;
    let more = ["--tag", "blue", "--weight", "1", "--meta", "version=2"];
    registry.register("web", "web-1", "http=127.0.0.11:8001", &more)?;
    let more =
        ["--tag", "blue", "--tag", "fast", "--weight", "3", "--endpoint", "admin=127.0.0.12:9000"];
    registry.register("web", "web-2", "http=127.0.0.12:8002", &more)?;
    registry.register("web", "web-3", "http=[::1]:8003", &["--weight", "1"])?;
    registry.register("shop/cart", "cart-1", "http=127.0.0.21:8021", &[])?;
    Ok(registry)
}

/// Asks with `dig +short`; the lines in order, one blank between them.
fn short(server: SocketAddr, name: &str, kind: &str, more: &[&str]) -> Checked<String> {
    let name = format!("{name}.{DOMAIN}");
    let text = dig(server, &[&["+short", &name, kind], more].concat())?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join(" | "))
}

/// Every kind of name, by both programs, over both transports.
pub(super) fn forms(stage: &mut Stage) -> Checked {
    let registry = registry(stage)?;
    let server = registry.dns();
    let addr = |hex: &str| format!("{hex}.addr.{DOMAIN}.");
    let (one, two) = (addr("7f00000b"), addr("7f00000c"));
    let six = addr("00000000000000000000000000000001");
    let all = format!("1 256 8001 {one} | 1 256 8003 {six} | 1 768 8002 {two}");
    let both = "127.0.0.11 | 127.0.0.12".to_owned();
    let cases = [
        ("web.service", "A", both.clone()),
        ("WeB.sErViCe", "A", both.clone()),
        ("web.service", "AAAA", "::1".into()),
        ("web.service", "SRV", all.clone()),
        ("_web._tcp.service", "SRV", all.clone()),
        ("_web._tcp", "SRV", all),
        ("blue.web.service", "A", both),
        ("fast.blue.web.service", "A", "127.0.0.12".into()),
        ("_web._fast.service", "SRV", format!("1 768 8002 {two}")),
        ("admin.port.web.service", "SRV", format!("1 768 9000 {two}")),
        ("web-1.inst.web.service", "A", "127.0.0.11".into()),
        ("7f00000b.addr", "A", "127.0.0.11".into()),
        ("n1.node", "A", "127.0.0.1".into()),
        ("cart.service.shop.ns", "A", "127.0.0.21".into()),
        ("web.service.dc1.dc", "AAAA", "::1".into()),
    ];
    for (name, kind, expected) in cases {
        for transport in ["+notcp", "+tcp"] {
            let got = short(server, name, kind, &[transport])?;
            check(got == expected, || format!("{name} {kind} {transport}: {got}, not {expected}"))?;
        }
    }
    let alias = dig(server, &["+short", "web.service.consul", "AAAA"])?;
    check(alias.trim() == "::1", || format!("the alias: {alias}"))?;
    let text = dig(server, &["web.service.rollcall.internal", "SRV", "+nsid"])?;
    for expected in ["(good)", "n-of-one", "flags: qr aa rd;", " 7 IN\tSRV", "ADDITIONAL: 4"] {
        check(text.contains(expected), || format!("{expected:?} is missing:\n{text}"))?;
    }
    let apex = kdig(server, &["+short", DOMAIN, "SOA"])?;
    check(apex.contains("n1.node."), || format!("SOA: {apex}"))?;
    for transport in ["+notcp", "+tcp"] {
        let text = kdig(server, &[transport, "web.service.rollcall.internal", "SRV"])?;
        let whole = text.contains("ANSWER: 3") && !text.to_lowercase().contains("warning");
        check(whole, || format!("kdig {transport}:\n{text}"))?;
    }
    Ok(())
}

/// What is not there, what is not ours, and what nobody should ask.
pub(super) fn refusals(stage: &mut Stage) -> Checked {
    let registry = registry(stage)?;
    let server = registry.dns();
    let name = |text: &str| format!("{text}.{DOMAIN}");
    let web = name("web.service");
    let cases: [(&[&str], &str, &str); 15] = [
        (&[&name("nobody.service"), "A"], "NXDOMAIN", "SOA"),
        (&[&name("service"), "A"], "NOERROR", "SOA"),
        (&[&web, "MX"], "NOERROR", "SOA"),
        (&[&web, "TYPE4711"], "NOERROR", "SOA"),
        (&[&name("red.web.service"), "A"], "NOERROR", "SOA"),
        (&[&name("cart.service"), "A"], "NXDOMAIN", "SOA"),
        (&["example.org", "A"], "REFUSED", ""),
        (&[".", "NS"], "REFUSED", ""),
        (&["version.bind", "CH", "TXT"], "REFUSED", ""),
        (&[&web, "A", "+edns=1", "+noednsnegotiation"], "BADVERS", ""),
        (&[&web, "A", "+opcode=notify"], "REFUSED", ""),
        (&[&web, "A", "+opcode=15"], "NOTIMP", ""),
        (&[&web, "A", "+noedns", "+zflag"], "NOERROR", ""),
        (&[&web, "A", "+ednsopt=100", "+dnssec"], "NOERROR", "flags: do;"),
        (&[&web, "ANY", "+notcp"], "NOERROR", "RFC8482"),
    ];
    for (arguments, status, also) in cases {
        let text = dig(server, arguments)?;
        let seen = text.contains(&format!("status: {status},"));
        check(seen && text.contains(also), || {
            format!("{arguments:?}: not {status} {also}\n{text}")
        })?;
    }
    let transfer = dig(server, &[DOMAIN, "AXFR"])?;
    check(transfer.contains("Transfer failed"), || format!("AXFR:\n{transfer}"))
}

/// Two hundred instances: a stable subset of addresses over UDP, TC on SRV, everything over TCP.
pub(super) fn large(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[])?;
    for number in 1..=200 {
        let endpoint = format!("http=127.0.1.{number}:80");
        registry.register("big", &format!("big-{number}"), &endpoint, &[])?;
    }
    let (server, name) = (registry.dns(), format!("big.service.{DOMAIN}"));
    let count = |text: &str| text.lines().filter(|line| !line.starts_with(';')).count();
    let udp = |kind: &str, size: &str| dig(server, &["+short", "+ignore", size, &name, kind]);
    for (size, least) in [("+noedns", 20), ("+bufsize=512", 20), ("+bufsize=4096", 60)] {
        let got = udp("A", size)?;
        let mut one: Vec<&str> = got.lines().collect();
        one.sort_unstable();
        let got = udp("A", size)?;
        let mut other: Vec<&str> = got.lines().collect();
        other.sort_unstable();
        check(one == other, || format!("{size}: one client gets two subsets"))?;
        check(one.len() >= least && one.len() < 200, || {
            format!("{size}: {} addresses", one.len())
        })?;
        stage.note(&format!("A {size}: {} of 200", one.len()));
    }
    let cut = dig(server, &["+ignore", &name, "SRV"])?;
    check(cut.contains("flags: qr aa tc rd"), || format!("SRV over UDP has no TC:\n{cut}"))?;
    let again = dig(server, &["+short", &name, "SRV"])?;
    check(count(&again) == 200, || format!("dig retried and got {}", count(&again)))?;
    let whole = kdig(server, &["+tcp", &name, "SRV"])?;
    check(whole.contains("ANSWER: 200;"), || format!("kdig over TCP:\n{whole}"))?;
    let whole = dig(server, &["+short", "+tcp", &name, "A"])?;
    check(count(&whole) == 200, || format!("A over TCP: {}", count(&whole)))
}
