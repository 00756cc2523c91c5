//! Resolvers that send one domain to Rollcall: unbound, dnsmasq, BIND. Clients ask them with dig.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::ask::dig;
use crate::case::{Checked, Need, check};
use crate::program::{Program, free_port, until};
use crate::registry::{DOMAIN, Registry};
use crate::stage::{Stage, installed};

/// What the case of unbound needs.
pub(super) const UNBOUND: &[Need] = &[Need::Program("unbound"), Need::Program("dig")];
/// What the case of dnsmasq needs.
pub(super) const DNSMASQ: &[Need] = &[Need::Program("dnsmasq"), Need::Program("dig")];
/// What the case of BIND needs.
pub(super) const BIND: &[Need] = &[Need::Program("named"), Need::Program("dig")];
const SOON: Duration = Duration::from_secs(15);
/// Instances of the service that is asked for: more than fit into a datagram as SRV.
const INSTANCES: usize = 40;

fn registry(stage: &Stage) -> Checked<Registry> {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s"), ("dns.negative_ttl", "1s")])?;
    for number in 1..=INSTANCES {
        let endpoint = format!("http=127.0.3.{number}:80");
        registry.register("web", &format!("web-{number}"), &endpoint, &["--tag", "blue"])?;
    }
    registry.register("lone", "lone-1", "http=127.0.0.9:80", &[])?;
    Ok(registry)
}

/// Addresses, ports, negative answers and a change, as a client of the resolver sees them.
fn serves(resolver: SocketAddr, registry: &Registry) -> Checked {
    let lines = |name: &str, kind: &str| -> Checked<Vec<String>> {
        let text = dig(resolver, &["+short", &format!("{name}.{DOMAIN}"), kind])?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    until("the resolver answers", SOON, || {
        let got = lines("lone.service", "A")?;
        check(got == ["127.0.0.9"], || format!("{got:?}"))
    })?;
    let srv = lines("web.service", "SRV")?;
    check(srv.len() == INSTANCES, || format!("{} of {INSTANCES} SRV", srv.len()))?;
    check(!lines("blue.web.service", "A")?.is_empty(), || "no address by tag".to_owned())?;
    let addr = lines("7f000309.addr", "A")?;
    check(addr == ["127.0.3.9"], || format!("the target of an SRV: {addr:?}"))?;
    let absent = dig(resolver, &[&format!("nobody.service.{DOMAIN}"), "A"])?;
    check(absent.contains("status: NXDOMAIN"), || absent.clone())?;
    let none = dig(resolver, &[&format!("lone.service.{DOMAIN}"), "AAAA"])?;
    let nodata = none.contains("status: NOERROR") && none.contains("ANSWER: 0");
    check(nodata, || none.clone())?;
    registry.run(&["drain", "lone/lone-1"])?;
    until("the change arrives", SOON, || {
        let got = lines("lone.service", "A")?;
        check(got.is_empty(), || format!("{got:?}"))
    })?;
    registry.run(&["enable", "lone/lone-1"])?;
    until("it is back", SOON, || {
        let got = lines("lone.service", "A")?;
        check(got == ["127.0.0.9"], || format!("{got:?}"))
    })
}

/// A resolver on a free port, from its configuration file.
fn start(
    stage: &Stage,
    name: &str,
    config: impl Fn(u16) -> String,
    command: impl Fn(&std::path::Path) -> Command,
) -> Checked<(Program, SocketAddr)> {
    let port = free_port()?;
    let path = stage.write(&format!("{name}.conf"), &config(port))?;
    let program = stage.start(name, &mut command(&path))?;
    Ok((program, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// As a stub it asks for every parent of the name first; as a forwarder it passes the query on.
pub(super) fn unbound(stage: &mut Stage) -> Checked {
    let registry = registry(stage)?;
    let (dns, directory) = (registry.dns(), stage.directory.display().to_string());
    let at = format!("{}@{}", dns.ip(), dns.port());
    for (name, zone) in [
        ("stub", format!("stub-zone:\n  name: \"{DOMAIN}\"\n  stub-addr: {at}\n")),
        ("forward", format!("forward-zone:\n  name: \"{DOMAIN}\"\n  forward-addr: {at}\n")),
    ] {
        let config = |port: u16| {
            format!(
                "server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  username: \"\"
  chroot: \"\"
  directory: \"{directory}\"
  pidfile: \"\"
  use-syslog: no
  module-config: \"iterator\"
  do-not-query-localhost: no
  qname-minimisation: yes
  local-zone: \"internal.\" nodefault
  domain-insecure: \"{DOMAIN}\"
remote-control:
  control-enable: no
{zone}"
            )
        };
        let command = |path: &std::path::Path| {
            let mut command = installed("unbound");
            command.args(["-d", "-c"]).arg(path);
            command
        };
        let (_program, resolver) = start(stage, name, config, command)?;
        serves(resolver, &registry).map_err(|why| format!("{name}-zone: {why}"))?;
    }
    Ok(())
}

/// `server=/domain/address#port`.
pub(super) fn dnsmasq(stage: &mut Stage) -> Checked {
    let registry = registry(stage)?;
    let dns = registry.dns();
    let config = |port: u16| {
        format!(
            "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\n\
             pid-file=\nserver=/{DOMAIN}/{}#{}\n",
            dns.ip(),
            dns.port()
        )
    };
    let command = |path: &std::path::Path| {
        let mut command = installed("dnsmasq");
        command.args(["--keep-in-foreground", "--log-facility=-", "-C"]).arg(path);
        command
    };
    let (_program, resolver) = start(stage, "dnsmasq", config, command)?;
    serves(resolver, &registry)
}

/// `type forward`.
pub(super) fn bind(stage: &mut Stage) -> Checked {
    let registry = registry(stage)?;
    let (dns, directory) = (registry.dns(), stage.directory.display().to_string());
    let config = |port: u16| {
        format!(
            "options {{
  directory \"{directory}\";
  pid-file none;
  session-keyfile none;
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  recursion yes;
  dnssec-validation no;
  empty-zones-enable no;
}};
controls {{}};
zone \"{DOMAIN}\" {{
  type forward;
  forward only;
  forwarders {{ {} port {}; }};
}};
",
            dns.ip(),
            dns.port()
        )
    };
    let command = |path: &std::path::Path| {
        let mut command = installed("named");
        command.args(["-g", "-n", "1", "-c"]).arg(path);
        command
    };
    let (_program, resolver) = start(stage, "named", config, command)?;
    serves(resolver, &registry)
}
