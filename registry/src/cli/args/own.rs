//! `run` and `register`: what an instance says about itself.

use std::ffi::OsString;
use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use rollcall_core::instance::Ttl;
use rollcall_core::name::{InstanceId, Label};

use super::super::values::{self, CheckArg, EndpointArg, MetadataPair, ServiceArg};

/// What both commands can say about an instance.
#[derive(Clone, Debug, Args)]
pub struct SpecArgs {
    /// Namespace of the service; NAMESPACE/SERVICE says the same
    #[arg(long, value_name = "NS", value_parser = values::namespace)]
    pub namespace: Option<Label>,

    /// Zone the instance runs in; callers prefer their own
    #[arg(long, value_name = "ZONE", value_parser = values::zone)]
    pub zone: Option<Label>,

    /// Share of traffic, 0 to 65535; 0 is registered but given none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub weight: u16,

    /// Tag to be found by; may be repeated
    #[arg(long = "tag", value_name = "TAG", value_parser = values::tag)]
    pub tags: Vec<Arc<str>>,

    /// Metadata, returned with the instance; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = values::metadata)]
    pub metadata: Vec<MetadataPair>,

    /// What the registry shall test: tcp, http:PATH or grpc or grpc:SERVICE, then, behind commas, any of
    /// interval=1s, timeout=500ms, rise=1, fall=2, endpoint=NAME, id=NAME, tls, advisory; may be
    /// repeated
    #[arg(long = "check", value_name = "CHECK", value_parser = values::check)]
    pub checks: Vec<CheckArg>,
}

/// Arguments of `rollcall run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall run --service web --port 8000 -- python3 -m http.server 8000
  rollcall run --service shop/cart --port 9000 --id cart-1 --zone a --ttl 3s -- ./cart --port 9000
  rollcall run --service web --port 8000 --check http:/health,interval=1s,fall=2 -- ./web

Signals are passed on to the program. The instance is deregistered when the program ends, and
rollcall exits with its code.")]
pub struct RunArgs {
    /// [NAMESPACE/]SERVICE to register
    #[arg(long, value_name = "SERVICE", value_parser = values::service)]
    pub service: ServiceArg,

    /// Port the program listens on
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Instance id; HOST-PORT otherwise
    #[arg(long, value_name = "ID", value_parser = values::instance_id)]
    pub id: Option<InstanceId>,

    /// IP address to announce; the local address of the connection to the registry otherwise
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// How long the instance stays listed without a heartbeat, 1s to 24h; the registry's default
    /// otherwise
    #[arg(long, value_name = "DURATION", value_parser = values::ttl)]
    pub ttl: Option<Ttl>,

    /// What the instance says about itself.
    #[command(flatten)]
    pub spec: SpecArgs,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Arguments of `rollcall register`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall register web --id web-1 --endpoint http=127.0.0.1:8080 --ttl 5s
  rollcall register shop/db --id db-1 --endpoint sql=10.0.0.7:5432 --persistent --meta role=primary
  rollcall register web --id web-1 --endpoint http=127.0.0.1:8080 --check http:/health,timeout=1s

Without --persistent the command stays in the foreground and beats until it is interrupted.")]
pub struct RegisterArgs {
    /// [NAMESPACE/]SERVICE
    #[arg(value_parser = values::service)]
    pub service: ServiceArg,

    /// Instance id, unique within the service
    #[arg(long, value_name = "ID", value_parser = values::instance_id)]
    pub id: InstanceId,

    /// Where it can be reached; may be repeated, the first one is the default
    #[arg(long = "endpoint", value_name = "NAME=IP:PORT", value_parser = values::endpoint)]
    #[arg(required = true)]
    pub endpoints: Vec<EndpointArg>,

    /// How long it stays listed without a heartbeat, 1s to 24h; the registry's default otherwise
    #[arg(long, value_name = "DURATION", value_parser = values::ttl)]
    pub ttl: Option<Ttl>,

    /// No lease: it stays until it is deregistered
    #[arg(long, conflicts_with = "ttl")]
    pub persistent: bool,

    /// What the instance says about itself.
    #[command(flatten)]
    pub spec: SpecArgs,
}
