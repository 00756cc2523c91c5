//! Behind hickory's own server the answers are the same, and none is cut in the middle of a record.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;
mod hickory;

use given::*;
use hickory_proto::rr::RecordType;
use rollcall_dns::Query;

#[test]
fn hickorys_server_gives_the_answers_that_we_give() {
    let mut given = Given::new();
    for i in 0..100 {
        let mut spec = spec(&format!("10.0.0.{i}:80"));
        spec.endpoints.push(endpoint("http6", &format!("[fd00::{i:x}]:80")));
        given.register(&format!("big/i{i}"), spec);
    }
    given.register("web/a", spec("10.0.0.1:80"));
    let names = ["web", "big", "none"].map(|name| format!("{name}.service.rollcall.internal"));
    let others = ["rollcall.internal", "example.org", "n1.node.consul"].map(str::to_owned);
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::NS];
    for how in [How::default(), How::payload(512), How::payload(1232), How::tcp()] {
        for (name, kind) in names.iter().chain(&others).flat_map(|n| kinds.map(|kind| (n, kind))) {
            let bytes = question(name, kind, how.edns.clone());
            let How { transport, peer, now, unix, random, .. } = how;
            let query = Query { bytes: &bytes, peer, transport, now, unix, random };
            let ours = hickory::ours(&given.front, &query, &given.catalog());
            let theirs = hickory::sent(&query, &ours).unwrap();
            hickory::same(&query, &ours, &theirs);
        }
    }
}
