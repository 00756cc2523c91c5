//! Snapshots between nodes: a client stream, the meta data first, then the parts in order, each with its
//! checksum. What arrived is verified as a whole before it replaces anything.

use futures_util::{Stream, StreamExt, stream};
use rollcall_proto::internal::v1 as pb;
use tonic::{Status, Streaming};

use super::shared::Shared;
use super::snapshot::{SnapshotHandle, SnapshotReceiver, SnapshotTotals};
use super::types::{SnapshotMeta, TypeConfig, Vote};
use super::wire::{self, malformed};
use crate::disk::StoreError;
use crate::host::Host;

/// What openraft hands from the state machine to the network and back.
pub(crate) type SnapshotData = SnapshotHandle;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// The messages that carry a snapshot. A part that cannot be read ends the stream early; the receiver misses it.
pub(crate) fn snapshot_messages(
    host: Host,
    vote: &Vote,
    meta: &SnapshotMeta,
    snapshot: &SnapshotData,
) -> impl Stream<Item = pb::InstallSnapshotRequest> + Send + 'static {
    use pb::install_snapshot_request::Body;
    let (last_log_id, membership) = wire::meta_out(meta);
    let info = snapshot.info();
    let head = pb::SnapshotHead {
        vote: Some(wire::vote_out(vote)),
        last_log_id,
        membership: Some(membership),
        epoch: info.epoch,
        total_parts: info.totals.parts,
        total_bytes: info.totals.bytes,
        digest: info.totals.digest.to_be_bytes().to_vec().into(),
    };
    let parts = stream::unfold(snapshot.parts(), move |mut parts| {
        let host = host.clone();
        async move {
            let (part, parts) = host.run_blocking(move || (parts.next(), parts)).await?;
            match part? {
                Ok(data) => {
                    let crc32c = crc32c::crc32c(&data);
                    Some((Body::Part(pb::SnapshotPart { data, crc32c }), parts))
                }
                Err(error) => {
                    tracing::error!(%error, "read a snapshot to send it");
                    None
                }
            }
        }
    });
    let bodies = stream::once(async { Body::Head(head) }).chain(parts);
    bodies.map(|body| pb::InstallSnapshotRequest { body: Some(body) })
}

/// Receives a snapshot into a file of its own, which is not the current one yet.
pub(crate) async fn receive_snapshot(
    shared: &Shared,
    sender: u64,
    mut messages: Streaming<pb::InstallSnapshotRequest>,
) -> Result<(Vote, Snapshot), Status> {
    use pb::install_snapshot_request::Body;
    let first = messages.message().await?.and_then(|message| message.body);
    let Some(Body::Head(head)) = first else {
        return Err(malformed("a snapshot begins with its meta data"));
    };
    let vote = wire::vote_in(head.vote)?;
    let meta = wire::meta_in(head.last_log_id.as_ref(), head.membership.as_ref())?;
    let digest = <[u8; 16]>::try_from(head.digest.as_ref()).map_err(|_| malformed("digest"))?;
    let totals = SnapshotTotals {
        parts: head.total_parts,
        bytes: head.total_bytes,
        digest: u128::from_be_bytes(digest),
    };
    tracing::info!(sender = format!("{sender:016x}"), %meta, totals.bytes, "receive a snapshot");
    let mut receiver = shared.snapshots.begin_receive(&meta, head.epoch).map_err(failed)?;
    while let Some(message) = messages.message().await? {
        let Some(Body::Part(part)) = message.body else {
            return Err(malformed("a snapshot goes on with parts"));
        };
        receiver = write_part(&shared.host, receiver, part).await?;
    }
    let finish = shared.host.run_blocking(move || receiver.finish(totals)).await;
    let snapshot = finish.ok_or_else(cancelled)?.map_err(failed)?;
    Ok((vote, Snapshot { meta, snapshot }))
}

async fn write_part(
    host: &Host,
    mut receiver: SnapshotReceiver,
    part: pb::SnapshotPart,
) -> Result<SnapshotReceiver, Status> {
    let computed = crc32c::crc32c(&part.data);
    if computed != part.crc32c {
        let text = format!("snapshot part: checksum {computed:08x}, sent was {:08x}", part.crc32c);
        return Err(Status::data_loss(text));
    }
    let write = move || receiver.part(&part.data).map(|()| receiver);
    host.run_blocking(write).await.ok_or_else(cancelled)?.map_err(failed)
}

fn failed(error: StoreError) -> Status {
    Status::internal(format!("receive a snapshot: {error}"))
}

fn cancelled() -> Status {
    Status::unavailable("receive a snapshot: this node is shutting down")
}
