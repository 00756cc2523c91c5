//! `resolve`, `ls`, `watch`, `why`, `check` and `events`: questions to the registry.

use std::sync::Arc;

use clap::{Args, Subcommand};
use rollcall_core::name::Label;

use super::super::values::{self, Consistency, HealthArg, InstanceArg, MetadataPair, ServiceArg};

/// Which instances to show.
#[derive(Clone, Debug, Args)]
pub struct SelectorArgs {
    /// Only instances with this tag; may be repeated, all must match
    #[arg(long = "tag", value_name = "TAG", value_parser = values::tag)]
    pub tags: Vec<Arc<str>>,

    /// Only instances with this metadata; may be repeated, all must match
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = values::metadata)]
    pub metadata: Vec<MetadataPair>,

    /// Only instances in this state
    #[arg(long, value_enum, value_name = "HEALTH", default_value_t)]
    pub health: HealthArg,
}

/// Arguments of `rollcall resolve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall resolve web
  rollcall resolve shop/cart --endpoint grpc --zone a -o json
  rollcall resolve web --consistency linearizable
  rollcall resolve web --consistency bounded=2s --min-revision 4711

Exits with 3 when the service is unknown, 4 when it is known but no instance is routable.")]
pub struct ResolveArgs {
    /// [NAMESPACE/]SERVICE
    #[arg(value_parser = values::service)]
    pub service: ServiceArg,

    /// Namespace of the service; NAMESPACE/SERVICE says the same
    #[arg(long, value_name = "NS", value_parser = values::namespace)]
    pub namespace: Option<Label>,

    /// Which instances to show.
    #[command(flatten)]
    pub selector: SelectorArgs,

    /// The caller's zone: its instances come first
    #[arg(long, value_name = "ZONE", value_parser = values::zone)]
    pub zone: Option<Label>,

    /// Only instances that have this endpoint, and only that address of theirs
    #[arg(long, value_name = "NAME", value_parser = values::endpoint_name)]
    pub endpoint: Option<Label>,

    /// How fresh: stale, bounded=DURATION or linearizable
    #[arg(long, value_name = "MODE", default_value = "stale", value_parser = values::consistency)]
    pub consistency: Consistency,

    /// Wait until the node has seen this revision: read your own write
    #[arg(long, value_name = "REVISION", default_value_t = 0, allow_negative_numbers = true)]
    pub min_revision: u64,
}

/// Arguments of `rollcall ls`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall ls
  rollcall ls --namespace shop
  rollcall ls web

Instances are listed whatever their state; `resolve` shows those that can be called.")]
pub struct LsArgs {
    /// [NAMESPACE/]SERVICE whose instances to list; the services of a namespace otherwise
    #[arg(value_parser = values::service)]
    pub service: Option<ServiceArg>,

    /// The namespace; `default` otherwise
    #[arg(long, value_name = "NS", value_parser = values::namespace)]
    pub namespace: Option<Label>,
}

/// Arguments of `rollcall watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall watch web
  rollcall watch web shop/cart -o json
  rollcall watch --namespace shop
  rollcall watch --prefix pay- --health any")]
pub struct WatchArgs {
    /// [NAMESPACE/]SERVICE, up to 1000; the whole namespace otherwise
    #[arg(value_parser = values::service, num_args = 0..=1000, value_name = "SERVICE")]
    pub services: Vec<ServiceArg>,

    /// Namespace to follow, or of the services named without one
    #[arg(long, value_name = "NS", value_parser = values::namespace)]
    pub namespace: Option<Label>,

    /// Follow the services whose names begin like this
    #[arg(long, value_name = "PREFIX", value_parser = values::prefix)]
    #[arg(conflicts_with = "services")]
    pub prefix: Option<String>,

    /// Which instances to show.
    #[command(flatten)]
    pub selector: SelectorArgs,
}

/// Arguments of `rollcall why`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall why web-1
  rollcall why shop/cart/cart-1 -o json")]
pub struct WhyArgs {
    /// [NAMESPACE/]SERVICE/ID, or an ID that only one instance of the namespace `default` has
    #[arg(value_parser = values::instance)]
    pub instance: InstanceArg,
}

/// Actions of `rollcall check`.
#[derive(Clone, Debug, Subcommand)]
pub enum CheckCommand {
    /// Show verdict, last five outputs, checker and next probe of the checks of an instance
    #[command(after_help = "Examples:
  rollcall check show web-1
  rollcall check show shop/web/web-1 -o json")]
    Show {
        /// [NAMESPACE/]SERVICE/ID, or an ID that only one instance of the namespace `default` has
        #[arg(value_parser = values::instance)]
        instance: InstanceArg,
    },
}

/// Arguments of `rollcall events`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall events
  rollcall events web --follow
  rollcall events --since 4711 --limit 1000 -o json")]
pub struct EventsArgs {
    /// Only events of [NAMESPACE/]SERVICE
    #[arg(value_parser = values::service)]
    pub service: Option<ServiceArg>,

    /// Only this namespace
    #[arg(long, value_name = "NS", value_parser = values::namespace)]
    pub namespace: Option<Label>,

    /// Go on with every new event until interrupted
    #[arg(short, long)]
    pub follow: bool,

    /// Begin after this revision; an error if the journal no longer reaches back so far
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,

    /// Most past events to show, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}
