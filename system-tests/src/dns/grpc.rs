//! gRPC's own resolver, c-ares: `dns://SERVER/NAME:PORT`.

use std::process::Command;

use crate::case::{Checked, Need, check};
use crate::program::{output, python_with};
use crate::registry::{DOMAIN, Registry};
use crate::stage::Stage;

/// What this case needs.
pub(super) const NEEDS: &[Need] = &[Need::Python("grpc")];

/// Two servers that say their address, a channel that balances over them by DNS.
const CALLS: &str = r#"
import collections, concurrent.futures, grpc, sys, time
dns, port = sys.argv[1], int(sys.argv[2])
def serve(ip):
    def answer(request, context): return ip.encode()
    handler = grpc.method_handlers_generic_handler("t.T", {"Who": grpc.unary_unary_rpc_method_handler(answer)})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    assert server.add_insecure_port(f"{ip}:{port}")
    server.start()
    return server
servers = [serve(ip) for ip in ("127.0.0.11", "127.0.0.12")]
options = [("grpc.lb_policy_name", "round_robin"), ("grpc.service_config_disable_resolution", 0)]
channel = grpc.insecure_channel(f"dns://{dns}/greeter.service.rollcall.internal:{port}", options=options)
who = channel.unary_unary("/t.T/Who")
grpc.channel_ready_future(channel).result(timeout=20)
deadline = time.monotonic() + 15
seen = collections.Counter()
while len(seen) < 2 and time.monotonic() < deadline:
    seen[who(b"", timeout=5).decode()] += 1
seen = collections.Counter(who(b"", timeout=5).decode() for _ in range(100))
print(sorted(seen.items()))
"#;

/// Both instances are found and share the calls.
pub(super) fn calls(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[])?;
    // One port on both addresses, because A records carry none.
    let port = crate::program::free_port()?.to_string();
    for number in 1..=2 {
        let endpoint = format!("grpc=127.0.0.1{number}:{port}");
        registry.register("greeter", &format!("greeter-{number}"), &endpoint, &[])?;
    }
    let python = python_with("grpc").ok_or("no python3 with grpc")?;
    let script = stage.write("calls.py", CALLS)?;
    let mut command = Command::new(python);
    command.arg(script).args([registry.dns().to_string(), port]);
    command.env("GRPC_DNS_RESOLVER", "ares");
    let seen = output(&mut command)?;
    stage.note(&format!("100 calls to greeter.service.{DOMAIN}: {}", seen.trim()));
    check(seen.trim() == "[('127.0.0.11', 50), ('127.0.0.12', 50)]", || seen)
}
