//! DNS as programs ask it that know nothing of Rollcall. Each file is one kind of program; `ask` is our own look.

mod ask;
mod crowd;
mod cut_off;
mod flood;
mod grpc;
mod haproxy;
mod listing;
mod prometheus;
mod proxies;
mod query;
mod resolvers;

use std::time::Duration;

use crate::case::{Case, Need};

const fn case(
    name: &'static str,
    seconds: u64,
    needs: &'static [Need],
    play: fn(&mut crate::stage::Stage) -> crate::case::Checked,
) -> Case {
    Case { topic: "dns", name, deadline: Duration::from_secs(seconds), needs, play }
}

/// The cases of this topic.
pub(crate) const CASES: &[Case] = &[
    case("dig and kdig read every kind of answer", 60, query::NEEDS, query::forms),
    case("dig and kdig are refused as specified", 60, query::NEEDS, query::refusals),
    case("a large service is cut over UDP and whole over TCP", 60, query::NEEDS, query::large),
    case(
        "HAProxy follows a service by SRV, with its weights",
        120,
        haproxy::NEEDS,
        haproxy::follows,
    ),
    case(
        "HAProxy loses all servers only when none is there",
        120,
        haproxy::NEEDS,
        haproxy::empties,
    ),
    case(
        "HAProxy is not disturbed when not all instances fit",
        120,
        haproxy::NEEDS,
        haproxy::subset,
    ),
    case("nginx resolves a name at run time", 60, proxies::NGINX, proxies::nginx),
    case("Caddy takes its upstreams from SRV", 60, proxies::CADDY, proxies::caddy),
    case("Prometheus scrapes what DNS lists", 90, prometheus::NEEDS, prometheus::scrapes),
    case("unbound asks as a stub and forwards", 60, resolvers::UNBOUND, resolvers::unbound),
    case("dnsmasq forwards one domain", 60, resolvers::DNSMASQ, resolvers::dnsmasq),
    case("BIND forwards one domain", 60, resolvers::BIND, resolvers::bind),
    case("gRPC in Python calls a service by its DNS name", 60, grpc::NEEDS, grpc::calls),
    case(
        "a node that is cut off goes on answering, and says so",
        90,
        cut_off::NEEDS,
        cut_off::answers,
    ),
    case("a registration is in the answers of every node", 60, &[], listing::follows),
    case("ten thousand idle connections keep nobody out", 120, crowd::NEEDS, crowd::idle),
    case("clients that send byte by byte keep nobody out", 90, &[], crowd::byte_wise),
    case("a flood of random names leaves the others their answers", 120, &[], flood::random_names),
    case("a flood of costly names leaves the others their answers", 120, &[], flood::costly_names),
    case(
        "a flood from one prefix is limited, the others are answered",
        120,
        &[],
        flood::one_prefix,
    ),
];
