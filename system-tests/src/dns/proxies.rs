//! nginx with `resolver`, and Caddy with `dynamic srv`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::{Backend, get};
use crate::case::{Checked, Need, check};
use crate::program::{free_port, until};
use crate::registry::{DOMAIN, Registry};
use crate::stage::{Stage, installed};

/// What the case of nginx needs.
pub(super) const NGINX: &[Need] = &[Need::Program("nginx")];
/// What the case of Caddy needs.
pub(super) const CADDY: &[Need] = &[Need::Program("caddy")];
const SOON: Duration = Duration::from_secs(15);

/// Asks until both have answered, then until only `left` has, twenty times in a row.
fn moves(front: SocketAddr, registry: &Registry, gone: &str, left: &str) -> Checked {
    for name in [gone, left] {
        until("both answer", SOON, || {
            let said = get(front, "/")?;
            check(said == name, || format!("{said:?} answered"))
        })?;
    }
    registry.run(&["drain", &format!("web/{gone}")])?;
    until("one answers alone", SOON, || {
        for _ in 0..20 {
            let said = get(front, "/")?;
            check(said == left, || format!("{said:?} answered"))?;
        }
        Ok(())
    })
}

/// A name in a variable is looked up while nginx runs.
pub(super) fn nginx(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s")])?;
    let one = Backend::start("127.0.0.11:0", "one")?;
    // A records carry no port: all instances must have the same.
    let two = Backend::start(&format!("127.0.0.12:{}", one.address.port()), "two")?;
    for (id, backend) in [("one", &one), ("two", &two)] {
        registry.register("web", id, &format!("http={}", backend.address), &[])?;
    }
    let front = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let directory = stage.directory.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {directory}/nginx.pid; error_log stderr info;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  resolver {} valid=1s;
  server {{
    listen {front};
    location / {{
      set $web web.service.{DOMAIN};
      proxy_pass http://$web:{};
    }}
  }}
}}
",
        registry.dns(),
        one.address.port()
    );
    let path = stage.write("nginx.conf", &config)?;
    let _nginx = stage.start("nginx", installed("nginx").args(["-e", "stderr", "-c"]).arg(path))?;
    moves(front, &registry, "one", "two")
}

/// Upstreams with their ports, from SRV.
pub(super) fn caddy(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s")])?;
    let one = Backend::start("127.0.0.11:0", "one")?;
    let two = Backend::start("127.0.0.12:0", "two")?;
    for (id, backend) in [("one", &one), ("two", &two)] {
        registry.register("web", id, &format!("http={}", backend.address), &[])?;
    }
    let front = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = format!(
        "{{
  admin off
  auto_https off
}}
http://{front} {{
  bind 127.0.0.1
  reverse_proxy {{
    dynamic srv _web._tcp.service.{DOMAIN} {{
      refresh 1s
      resolvers {dns}
    }}
    transport http {{
      resolvers {dns}
    }}
  }}
}}
",
        dns = registry.dns()
    );
    let path = stage.write("Caddyfile", &config)?;
    let mut caddy = installed("caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(path);
    caddy.env("HOME", &stage.directory).env("XDG_DATA_HOME", &stage.directory);
    let _caddy = stage.start("caddy", &mut caddy)?;
    moves(front, &registry, "one", "two")
}
