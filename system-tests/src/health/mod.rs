//! Health checks, leases and protection on real processes: what dies is gone within the bounds of the design, what
//! lives stays, whatever happens to the servers and to the network.

pub(crate) mod cluster;
pub(crate) mod fleet;
mod hostile;
mod living;
mod many;
mod mass;
mod observer;
mod timing;

use std::time::Duration;

use crate::case::{Case, Need};

/// Everything here is in this service.
const SERVICE: &str = "web";
const TTL: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(500);
const RISE: u32 = 1;
const FALL: u32 = 3;
/// An election: twice the longest timeout and 0.3 s.
const ELECTION: Duration = Duration::from_millis(1_500);
/// From a decision to its sight.
const MARGIN: Duration = Duration::from_millis(300);
/// Longest wait for instances to be listed and probed.
const LISTED: Duration = Duration::from_secs(30);

const NETWORK: &[Need] = &[Need::Root, Need::Program("ip"), Need::Program("nft")];

const fn case(
    name: &'static str,
    seconds: u64,
    play: fn(&mut crate::stage::Stage) -> crate::case::Checked,
) -> Case {
    Case { topic: "health", name, deadline: Duration::from_secs(seconds), needs: NETWORK, play }
}

/// The cases of this topic.
pub(crate) const CASES: &[Case] = &[
    case("what dies is gone within its bound", 180, timing::play),
    case("a server that alone cannot reach the instances takes none of them out", 120, living::cut),
    case("a leader that is paused for 5 s takes nobody out", 120, living::paused),
    case("the deaths of leaders take nobody out who lives", 180, living::killed),
    case("packets that get lost, 5 %, strike nobody off", 120, living::lossy),
    case("mass death is held back until they return", 120, mass::held),
    case("mass death with checks takes the dead and leaves the living", 120, mass::probed),
    case("hostile targets cost their own probe and 64 KiB", 180, hostile::play),
    Case {
        topic: "health",
        name: "20,000 instances are probed on time",
        deadline: Duration::from_secs(300),
        needs: &[Need::Root, Need::Program("ip"), Need::Files(10_000)],
        play: many::play,
    },
    Case {
        topic: "long",
        name: "protection ends by itself after ten minutes",
        deadline: Duration::from_secs(900),
        needs: NETWORK,
        play: mass::limit,
    },
];
