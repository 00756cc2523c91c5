//! That the network of the other cases is what they believe it to be.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::backend::{Backend, get};
use crate::case::{Case, Checked, Need, check};
use crate::netns::network;
use crate::program::{output, until};
use crate::stage::Stage;

/// The cases of this topic.
pub(crate) const CASES: &[Case] = &[
    Case {
        topic: "network",
        name: "a namespace that is cut off hears nothing until it is healed",
        deadline: Duration::from_secs(30),
        needs: &[Need::Root, Need::Program("ip"), Need::Program("nft"), Need::Program("python3")],
        play: cut,
    },
    Case {
        topic: "network",
        name: "a backend says who it is and counts its callers",
        deadline: Duration::from_secs(10),
        needs: &[],
        play: counts,
    },
];

const CALL: &str =
    "import socket,sys; socket.create_connection((sys.argv[1], 7), timeout=0.3).close()";
const LISTEN: &str = "import socket,sys
s = socket.create_server((sys.argv[1], 7))
while True: s.accept()[0].close()";

fn cut(stage: &mut Stage) -> Checked {
    let machines = network(stage, 2)?;
    let python = Path::new("python3");
    let listens = ["-c", LISTEN, &machines[0].address];
    let _server = machines[0].start(stage, "listen", python, &listens)?;
    let call = || {
        let arguments = ["-c", CALL, &machines[0].address];
        output(machines[1].command(python).args(arguments)).map(drop)
    };
    until("the other is heard", Duration::from_secs(5), call)?;
    machines[0].cut_off()?;
    check(call().is_err(), || "a packet came through the cut".to_owned())?;
    machines[0].heal()?;
    until("the other is heard again", Duration::from_secs(5), call)
}

fn counts(_: &mut Stage) -> Checked {
    let backend = Backend::start("127.0.0.1:0", "me")?;
    for _ in 0..3 {
        let said = get(backend.address, "/")?;
        check(said == "me", || format!("it said {said:?}"))?;
    }
    check(backend.answered() == 3, || format!("{} calls", backend.answered()))?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    check(TcpStream::connect(closed).is_err(), || "a closed port answers".to_owned())
}
