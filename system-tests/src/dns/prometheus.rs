//! Prometheus with `dns_sd_configs`. It asks the resolver of the system, so it runs in a namespace where that is us.

use std::path::Path;
use std::time::Duration;

use crate::case::{Checked, Need, check};
use crate::netns::network;
use crate::program::{find, output, until};
use crate::registry::DOMAIN;
use crate::stage::Stage;

/// What this case needs.
pub(super) const NEEDS: &[Need] =
    &[Need::Root, Need::Program("prometheus"), Need::Program("ip"), Need::Program("python3")];
const SOON: Duration = Duration::from_secs(30);
/// Serves an empty page of metrics.
const TARGET: &str = "import http.server,sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Type','text/plain'); self.end_headers()
        self.wfile.write(b'up_and_running 1\\n')
http.server.ThreadingHTTPServer((sys.argv[1], 9100), H).serve_forever()";
const ASK: &str = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/api/v1/targets').read().decode())";

/// Targets come, are scraped, and go.
pub(super) fn scrapes(stage: &mut Stage) -> Checked {
    let machine = network(stage, 1)?.remove(0);
    machine.etc("resolv.conf", "nameserver 127.0.0.1\n")?;
    let (rollcall, python) = (stage.rollcall.clone(), Path::new("python3"));
    let data = stage.path("data").display().to_string();
    let server = ["server", "--bootstrap", "--data-dir", &data, "--listen-dns", "127.0.0.1:53"];
    let _server = machine.start(stage, "rollcall", &rollcall, &server)?;
    let _targets = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
        .map(|ip| machine.start(stage, &format!("target-{ip}"), python, &["-c", TARGET, ip]));
    let run = |arguments: &[&str]| output(machine.command(&rollcall).args(arguments));
    for number in 1..=3 {
        let (id, endpoint) = (format!("e-{number}"), format!("metrics=127.0.0.1{number}:9100"));
        let register =
            ["register", "exporter", "--id", &id, "--persistent", "--endpoint", &endpoint];
        until("it is registered", SOON, || run(&register))?;
    }
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: exporters
  dns_sd_configs:
  - names: [exporter.service.{DOMAIN}]
    type: SRV
    refresh_interval: 1s
"
    );
    let path = stage.write("prometheus.yml", &config)?;
    let config = format!("--config.file={}", path.display());
    let storage = format!("--storage.tsdb.path={}", stage.path("tsdb").display());
    let listen = "--web.listen-address=127.0.0.1:9090";
    let program = find("prometheus").ok_or("prometheus")?;
    let _prometheus = machine.start(stage, "prometheus", &program, &[&config, &storage, listen])?;
    let healthy = || -> Checked<usize> {
        let text = output(machine.command(python).args(["-c", ASK]))?;
        Ok(text.matches("\"health\":\"up\"").count())
    };
    let are = |count: usize| {
        move || {
            let up = healthy()?;
            check(up == count, || format!("{up} targets are up"))
        }
    };
    until("three targets are up", SOON, are(3))?;
    run(&["drain", "exporter/e-2"])?;
    until("two targets are left", SOON, are(2))
}
