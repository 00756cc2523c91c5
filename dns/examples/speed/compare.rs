//! All servers in turn under the same load, and tables of what came out.
//!
//! The server has core 0, the load core 1. Beside the answers a second stand the microseconds of processor time that the
//! server took for each answer: where others use the machine too, that figure is the one to trust.

use crate::{data, load::Report};
use std::{
    error::Error,
    fs,
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SERVICES: usize = 10_000;
/// dnsmasq takes minutes for more.
const SERVICES_DNSMASQ: usize = 1_000;
const REPEATS: usize = 3;
const WINDOW: &str = "64";
/// Ticks of processor time a second, the same on every Linux.
const TICKS: f64 = 100.0;

/// A server that has been started; ended when it is dropped.
struct Server {
    name: String,
    child: Child,
    port: u16,
    services: usize,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One load, and the processor time that the server took for each answer, in microseconds.
#[derive(Clone, Copy)]
struct Seen {
    report: Report,
    cost: f64,
}

/// Runs what is wanted; all of it where nothing is said.
pub(crate) fn compare(wanted: &[&str]) -> Result<()> {
    let seconds = wanted.iter().find_map(|word| word.strip_prefix("seconds=")).unwrap_or("3");
    let kinds = wanted.iter().find_map(|word| word.strip_prefix("kinds="));
    let kinds: Vec<&str> = kinds.unwrap_or("a,srv,aaaa,mix,cookie").split(',').collect();
    let servers = wanted.iter().find_map(|word| word.strip_prefix("servers="));
    let servers: Vec<&str> =
        servers.unwrap_or("fast,full,hickory,knot,dnsmasq").split(',').collect();
    let parts: Vec<&str> = wanted.iter().copied().filter(|word| !word.contains('=')).collect();
    let wants = |part: &str| parts.is_empty() || parts.contains(&part);
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("zone"), data::zone(SERVICES))?;
    fs::write(folder.path().join("hosts"), data::hosts(SERVICES_DNSMASQ))?;
    if wants("peak") {
        peak(folder.path(), (&servers, &kinds), seconds)?;
    }
    if wants("changes") {
        changes(folder.path(), seconds)?;
    }
    if wants("flood") {
        flood(folder.path(), seconds)?;
    }
    Ok(())
}

// === What is measured ===

/// Peak, then latency at half of the peak's median, for every server and kind of question.
fn peak(folder: &Path, (servers, kinds): (&[&str], &[&str]), seconds: &str) -> Result<()> {
    let mut seen = vec![vec![Vec::new(); kinds.len()]; servers.len()];
    for _ in 0..REPEATS {
        for (s, server) in servers.iter().copied().enumerate() {
            let started = start(server, folder, 0)?;
            for (k, kind) in kinds.iter().copied().enumerate() {
                if knows(server, kind) {
                    seen[s][k].push(measure(&started, kind, WINDOW, 0.0, seconds)?);
                }
            }
        }
    }
    let mut half = vec![vec![None; kinds.len()]; servers.len()];
    for (s, server) in servers.iter().copied().enumerate() {
        let started = start(server, folder, 0)?;
        for (k, kind) in kinds.iter().copied().enumerate() {
            if let Some(peak) = median(&seen[s][k], |seen| seen.report.answers) {
                half[s][k] = Some(measure(&started, kind, "512", peak / 2.0, seconds)?);
            }
        }
    }
    println!(
        "| kind | server | k answers/s, each run | median | CPU µs an answer | x knot | x knot by CPU | p50/p99 µs at half load | lost, wrong |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (k, kind) in kinds.iter().copied().enumerate() {
        let knot = servers.iter().position(|server| *server == "knot").unwrap_or(0);
        for (s, server) in servers.iter().copied().enumerate() {
            let (own, other) = (&seen[s][k], &seen[knot][k]);
            let Some(peak) = median(own, |seen| seen.report.answers) else { continue };
            let cost = median(own, |seen| seen.cost).unwrap_or_default();
            let knot_peak = median(other, |seen| seen.report.answers).unwrap_or_default();
            let knot_cost = median(other, |seen| seen.cost).unwrap_or_default();
            let runs: Vec<String> =
                own.iter().map(|seen| format!("{:.1}", seen.report.answers / 1e3)).collect();
            let half = half[s][k].map(|seen: Seen| seen.report).unwrap_or_default();
            let bad: u64 = own.iter().map(|seen| seen.report.lost + seen.report.wrong).sum();
            println!(
                "| {kind} | {server} | {} | {:.1} | {cost:.2} | {:.2} | {:.2} | {}/{} | {bad} |",
                runs.join(" "),
                peak / 1e3,
                peak / knot_peak,
                knot_cost / cost,
                half.p50,
                half.p99,
            );
        }
    }
    Ok(())
}

/// dnsmasq was given addresses alone. hickory searches its whole zone for what is not there, some 30 ms for each answer.
fn knows(server: &str, kind: &str) -> bool {
    match server {
        "dnsmasq" => matches!(kind, "a" | "cookie"),
        "hickory" => !matches!(kind, "aaaa" | "mix"),
        _ => true,
    }
}

/// What changes of the catalogue cost the thread that answers; the thread that applies them has the same core.
fn changes(folder: &Path, seconds: &str) -> Result<()> {
    const RATES: [u32; 2] = [0, 2_000];
    println!(
        "\n| kind | changes/s | k answers/s, each run | median | CPU µs an answer | share of the core |\n|---|---|---|---|---|---|"
    );
    for kind in ["a", "srv"] {
        let mut seen = vec![Vec::new(); RATES.len()];
        for _ in 0..REPEATS {
            for (r, rate) in RATES.into_iter().enumerate() {
                let started = start("fast", folder, rate)?;
                seen[r].push(measure(&started, kind, WINDOW, 0.0, seconds)?);
            }
        }
        let still = median(&seen[0], |seen| seen.cost).unwrap_or_default();
        for (r, rate) in RATES.into_iter().enumerate() {
            let share = median(&seen[r], |seen| (seen.cost - still) * seen.report.answers / 1e4);
            let runs: Vec<String> =
                seen[r].iter().map(|seen| format!("{:.1}", seen.report.answers / 1e3)).collect();
            println!(
                "| {kind} | {rate} | {} | {:.1} | {:.2} | {:.1} % |",
                runs.join(" "),
                median(&seen[r], |seen| seen.report.answers).unwrap_or_default() / 1e3,
                median(&seen[r], |seen| seen.cost).unwrap_or_default(),
                share.unwrap_or_default(),
            );
        }
    }
    Ok(())
}

/// What a flood of made-up names does to others, who ask at a steady pace.
fn flood(folder: &Path, seconds: &str) -> Result<()> {
    println!("\n| flood, names/s | others: p50/p99 µs, each run | lost, wrong |\n|---|---|---|");
    for rate in [0.0, 20_000.0, 50_000.0, 100_000.0] {
        let mut runs = Vec::new();
        for _ in 0..REPEATS {
            let started = start("fast", folder, 0)?;
            let flood = (rate > 0.0).then(|| asker(&started, "random", "512", rate, "20"));
            let mut flood =
                flood.map(|mut flood| flood.stdout(Stdio::null()).spawn()).transpose()?;
            let seen = measure(&started, "a", "512", 10_000.0, seconds);
            if let Some(flood) = &mut flood {
                flood.kill()?;
                flood.wait()?;
            }
            runs.push(seen?.report);
        }
        let shown: Vec<String> = runs.iter().map(|r| format!("{}/{}", r.p50, r.p99)).collect();
        let bad: u64 = runs.iter().map(|report| report.lost + report.wrong).sum();
        println!("| {rate:.0} | {} | {bad} |", shown.join(" "));
    }
    Ok(())
}

fn median(seen: &[Seen], of: impl Fn(&Seen) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = seen.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

// === Servers and load ===

fn measure(server: &Server, kind: &str, window: &str, rate: f64, seconds: &str) -> Result<Seen> {
    // Once before: the server may still be reading its data, and ours keeps an answer from its first query on.
    run(asker(server, kind, window, 0.0, "0"))?;
    let before = ticks(server)?;
    let report = run(asker(server, kind, window, rate, seconds))?;
    let took = (ticks(server)? - before) / TICKS;
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let answers = report.total.max(1) as f64;
    let cost = took * 1e6 / answers;
    eprintln!("{kind} from {}: {report}; {cost:.2} µs", server.name);
    Ok(Seen { report, cost })
}

fn asker(server: &Server, kind: &str, window: &str, rate: f64, seconds: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(std::env::current_exe().expect("this program"));
    command.args(["load", &format!("127.0.0.1:{}", server.port), kind]);
    command.args([&server.services.to_string(), window, &rate.to_string(), seconds]);
    command
}

fn run(mut asker: Command) -> Result<Report> {
    let output = asker.output()?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    Report::parse(&line).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into())
}

/// Processor time of the server so far.
fn ticks(server: &Server) -> Result<f64> {
    let process = server.child.id();
    // Ours answers in its first thread; a second one applies changes, which is not the price of an answer.
    let file = match server.name.as_str() {
        "knot" | "dnsmasq" | "hickory" => format!("/proc/{process}/stat"),
        _ => format!("/proc/{process}/task/{process}/stat"),
    };
    let stat = fs::read_to_string(file)?;
    // The name in brackets may hold anything; user and system time are words 12 and 13 behind it.
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let times: Vec<f64> =
        words.skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(times.iter().sum())
}

fn start(server: &str, folder: &Path, changes: u32) -> Result<Server> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let services = if server == "dnsmasq" { SERVICES_DNSMASQ } else { SERVICES };
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
    match server {
        "knot" => {
            let file = folder.join("knot.conf");
            fs::write(&file, knot_conf(folder, port))?;
            command.arg("knotd").arg("-c").arg(file);
        }
        "dnsmasq" => {
            let hosts = folder.join("hosts");
            command.args(["dnsmasq", "-k", "-C", "/dev/null", "--bind-interfaces", "--no-resolv"]);
            command.args([
                "--no-hosts",
                "--listen-address=127.0.0.1",
                "--local-ttl=5",
                "-u",
                "root",
            ]);
            command.arg(format!("--local=/{}/", data::DOMAIN)).arg(format!("--port={port}"));
            command.arg(format!("--addn-hosts={}", hosts.display())).arg("--pid-file=");
        }
        ours => {
            command.arg(std::env::current_exe()?).args(["serve", ours, &port.to_string()]);
            command.args([services.to_string(), changes.to_string()]);
        }
    }
    Ok(Server { name: server.to_owned(), child: command.spawn()?, port, services })
}

fn knot_conf(folder: &Path, port: u16) -> String {
    let (folder, domain) = (folder.display(), data::DOMAIN);
    format!(
        "server:\n  rundir: {folder}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\n  answer-rotation: on\ndatabase:\n  storage: {folder}\n\
         zone:\n  - domain: {domain}\n    file: {folder}/zone\n    zonefile-sync: -1\n    \
         journal-content: none\n"
    )
}
