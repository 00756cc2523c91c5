//! The copy of a watched list on disk: its format, when it is written, and how a watch starts with it.
//!
//! `b"rollcall"`, format version (u32, little endian), xxh3 of what follows (u64, little endian), then a protobuf
//! message: the selection, revision, resume token, and each service as the snapshot that a watch would send. What is
//! not whole, not ours or of another selection is no copy: it is said and left alone.

use super::{
    Origin, Picture, Selection, Target,
    replica::{Fault, Replica},
};
use crate::{
    client::Shared,
    copies::{COPY_BYTES, Copies, StoredCopy},
};
use prost::Message as _;
use rollcall_core::name::ServiceName;
use rollcall_proto::v1::{
    self,
    watch_response::{Event, Snapshot},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"rollcall";
/// Grows with every change of the format; other versions are not read.
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8;
/// A list that changes is written at most this often.
const CHANGED: Duration = Duration::from_secs(5);
/// The token of a list that does not change is written this often: an old one costs the registry a snapshot.
const UNCHANGED: Duration = Duration::from_secs(300);
/// Longest wait for the disk.
const LOAD_TIMEOUT: Duration = Duration::from_millis(500);
const SAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is in the file.
#[derive(Clone, PartialEq, prost::Message)]
struct Copy {
    /// Target and filter.
    #[prost(message, optional, tag = "1")]
    selection: Option<v1::WatchRequest>,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "vec", tag = "3")]
    resume_token: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    services: Vec<v1::WatchResponse>,
}

/// What a watch starts with: nothing, or what is known from before. With it comes what shall be shown where no registry
/// answers.
pub(super) async fn start(shared: &Shared, selection: &Selection) -> (Replica, Option<Picture>) {
    let new = || Replica::new(selection.target.clone(), selection.bytes_max);
    let mut replica = new();
    if let Some(copies) = &shared.copies {
        match load(copies, selection, &mut replica).await {
            Ok(true) => {
                let standby = replica.picture();
                return (replica, Some(standby));
            }
            Ok(false) => {}
            Err(problem) => {
                tracing::warn!(name = file_name(selection), problem, "no copy to start with");
                replica = new();
            }
        }
    }
    let services: Vec<_> = shared
        .fallbacks
        .iter()
        .filter(|(name, _)| selection.target.covers(name))
        .map(|(name, addresses)| fallback(name, addresses, &selection.filter.endpoint_name))
        .collect();
    if services.is_empty() {
        return (replica, None);
    }
    match replica.stand_in(Origin::Fallback, services, (0, Vec::new()), Instant::now()) {
        Ok(()) => {
            let standby = replica.picture();
            (replica, Some(standby))
        }
        Err(fault) => {
            tracing::warn!(?fault, "the fallback addresses cannot be used");
            (new(), None)
        }
    }
}

/// Writes the list whenever it changed, until the task is aborted. Ends at once where nothing shall be written.
pub(super) async fn keep(
    shared: Arc<Shared>,
    selection: Selection,
    mut pictures: watch::Receiver<Arc<Picture>>,
) {
    let Some(copies) = &shared.copies else { return };
    let name = file_name(&selection);
    let mut saved: Option<(Arc<Picture>, Instant)> = None;
    let mut fails = false;
    loop {
        let wanted = |picture: &Arc<Picture>| is_worth_saving(picture, saved.as_ref());
        let Ok(picture) = pictures.wait_for(wanted).await.map(|picture| Arc::clone(&picture))
        else {
            return;
        };
        let result = match encode(&selection, &picture) {
            Ok(bytes) => timeout(SAVE_TIMEOUT, copies.save(&name, bytes))
                .await
                .map_err(|_| format!("nothing happened within {SAVE_TIMEOUT:?}"))
                .and_then(|saved| saved.map_err(|error| error.to_string())),
            Err(problem) => Err(problem),
        };
        match result {
            Ok(()) => {
                fails = false;
                saved = Some((picture, Instant::now()));
            }
            Err(problem) => {
                if !fails {
                    tracing::warn!(name, problem, "the copy was not saved, try on");
                }
                fails = true;
            }
        }
        sleep(CHANGED).await;
    }
}

/// Only what a registry says is worth it; and not while it is doubted.
fn is_worth_saving(picture: &Arc<Picture>, saved: Option<&(Arc<Picture>, Instant)>) -> bool {
    let live = picture.complete && picture.connected && !picture.origin.is_stand_in();
    if !live || picture.services.values().any(|service| !service.held.is_empty()) {
        return false;
    }
    let Some((before, at)) = saved else { return true };
    let same = picture.services.len() == before.services.len()
        && picture.services.values().zip(before.services.values()).all(|(a, b)| Arc::ptr_eq(a, b));
    !same || (at.elapsed() >= UNCHANGED && picture.resume != before.resume)
}

/// The name of the copy: what it holds, readable as far as it is one service or pattern, and a hash of the selection.
fn file_name(selection: &Selection) -> String {
    let hash = xxh3_64(&identity(selection).encode_to_vec());
    let title = match &selection.target {
        Target::Services(names) => {
            let more = names.len().saturating_sub(1);
            let first = names.first().map(ToString::to_string).unwrap_or_default();
            if more > 0 { format!("{first}-and-{more}-more") } else { first }
        }
        Target::Pattern { namespace, prefix } => format!("{namespace}-{prefix}-all"),
    };
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let title: String = title.chars().map(legal).take(90).collect();
    format!("{title}.{hash:016x}.copy")
}

/// True: the replica starts with the copy. False: there is none.
async fn load(
    copies: &Copies,
    selection: &Selection,
    replica: &mut Replica,
) -> Result<bool, String> {
    let loaded = timeout(LOAD_TIMEOUT, copies.load(&file_name(selection)));
    let loaded = loaded.await.map_err(|_| format!("nothing was read within {LOAD_TIMEOUT:?}"))?;
    let Some(StoredCopy { bytes, age }) = loaded.map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    let copy = decode(&bytes, selection)?;
    let (origin, token) = (Origin::DiskCopy { age }, (copy.revision, copy.resume_token));
    let taken = replica.stand_in(origin, copy.services, token, Instant::now());
    taken.map(|()| true).map_err(|fault| match fault {
        Fault::Protocol(problem) => problem,
        Fault::Gap | Fault::OtherHistory => "its services contradict each other".to_owned(),
    })
}

fn encode(selection: &Selection, picture: &Picture) -> Result<Vec<u8>, String> {
    let services = picture.services.values().map(|service| v1::WatchResponse {
        revision: service.revision,
        service: Some(wire(&service.name)),
        resume_token: Vec::new(),
        event: Some(Event::Snapshot(Snapshot {
            more: false,
            service_exists: service.exists,
            fail_open: service.fail_open,
            protected: service.protected,
            instances: service.instances.values().map(|i| v1::Instance::clone(i)).collect(),
        })),
    });
    let copy = Copy {
        selection: Some(identity(selection)),
        revision: picture.revision,
        resume_token: picture.resume.clone(),
        services: services.collect(),
    };
    let length = copy.encoded_len() + HEADER;
    if length > COPY_BYTES {
        return Err(format!("{length} bytes, {COPY_BYTES} are allowed"));
    }
    let body = copy.encode_to_vec();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(xxh3_64(&body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8], selection: &Selection) -> Result<Copy, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("it is no copy of a list")?;
    let (version, body) = body.split_first_chunk().ok_or("it ends in its header")?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("it has format version {version}, this release reads {VERSION}"));
    }
    let (checksum, body) = body.split_first_chunk().ok_or("it ends in its header")?;
    if xxh3_64(body) != u64::from_le_bytes(*checksum) {
        return Err("its checksum is wrong".to_owned());
    }
    let copy = Copy::decode(body).map_err(|error| error.to_string())?;
    if copy.selection != Some(identity(selection)) {
        return Err("it belongs to another selection".to_owned());
    }
    Ok(copy)
}

/// What makes two selections the same list.
fn identity(selection: &Selection) -> v1::WatchRequest {
    v1::WatchRequest { bookmark_interval: None, ..selection.request(Vec::new()) }
}

/// A service that consists of these addresses.
fn fallback(name: &ServiceName, addresses: &[SocketAddr], endpoint: &str) -> v1::WatchResponse {
    let endpoint = if endpoint.is_empty() { "default" } else { endpoint };
    let instances = addresses.iter().map(|address| v1::Instance {
        instance_id: format!("fallback-{}-{}", address.ip(), address.port()),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![v1::Endpoint {
                name: endpoint.to_owned(),
                host: address.ip().to_string(),
                port: address.port().into(),
                ..v1::Endpoint::default()
            }],
            ..v1::InstanceSpec::default()
        }),
        health_status: v1::HealthStatus::Healthy.into(),
        admin_state: v1::AdminState::Enabled.into(),
        ..v1::Instance::default()
    });
    let snapshot =
        Snapshot { service_exists: true, instances: instances.collect(), ..Snapshot::default() };
    v1::WatchResponse {
        service: Some(wire(name)),
        event: Some(Event::Snapshot(snapshot)),
        ..v1::WatchResponse::default()
    }
}

fn wire(name: &ServiceName) -> v1::ServiceName {
    v1::ServiceName {
        namespace: name.namespace.as_str().to_owned(),
        service: name.service.as_str().to_owned(),
    }
}
