//! `drain`, `maintenance`, `enable`, `policy`, `protection`, `member`, `leader`, `snapshot`:
//! the operator's commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::values::{self, CheckArg, InstanceArg, NodeArg, ServiceArg};

/// Arguments of `rollcall drain` and `rollcall maintenance`.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// [NAMESPACE/]SERVICE/ID, or an ID that only one instance of the namespace `default` has
    #[arg(value_parser = values::instance)]
    pub instance: InstanceArg,

    /// Why, for the journal
    #[arg(long, value_name = "TEXT", value_parser = values::reason)]
    pub reason: Option<Arc<str>>,

    /// End by itself after this time; lasts until `rollcall enable` otherwise
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration)]
    pub duration: Option<Duration>,
}

/// Arguments of `rollcall enable`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall enable web/web-1")]
pub struct EnableArgs {
    /// [NAMESPACE/]SERVICE/ID, or an ID that only one instance of the namespace `default` has
    #[arg(value_parser = values::instance)]
    pub instance: InstanceArg,

    /// Why, for the journal
    #[arg(long, value_name = "TEXT", value_parser = values::reason)]
    pub reason: Option<Arc<str>>,
}

/// Actions of `rollcall policy`.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policy of a service
    #[command(after_help = "Examples:
  rollcall policy get web")]
    Get {
        /// [NAMESPACE/]SERVICE
        #[arg(value_parser = values::service)]
        service: ServiceArg,
    },
    /// Change the named settings of a service's policy, and leave the others
    Set(PolicySetArgs),
}

/// Arguments of `rollcall policy set`. At least one setting, or `--clear`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall policy set web --evict-after 1m --fail-open-below 0.3
  rollcall policy set web --check http:/health,interval=5s --check tcp,endpoint=admin,advisory
  rollcall policy set web --clear")]
#[command(override_usage = "rollcall policy set <SERVICE> <SETTINGS | --clear>")]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct PolicySetArgs {
    /// [NAMESPACE/]SERVICE
    #[arg(value_parser = values::service)]
    pub service: ServiceArg,

    /// Lifetime of its DNS answers
    #[arg(long, value_name = "DURATION", group = "change", value_parser = values::duration)]
    pub dns_ttl: Option<Duration>,

    /// Return all instances, with their true status, when less than this share is routable;
    /// 0 is off
    #[arg(long, value_name = "FRACTION", group = "change", value_parser = values::fraction)]
    pub fail_open_below: Option<f64>,

    /// Time from EXPIRED to removal
    #[arg(long, value_name = "DURATION", group = "change", value_parser = values::duration)]
    pub evict_after: Option<Duration>,

    /// Remove an instance that has been UNHEALTHY for so long, although it beats or has no lease
    #[arg(long, value_name = "DURATION", group = "change", value_parser = values::duration)]
    pub evict_unhealthy_after: Option<Duration>,

    /// Share of leases lost at once above which this service is protected
    #[arg(long, value_name = "FRACTION", group = "change", value_parser = values::fraction)]
    pub protection_threshold: Option<f64>,

    /// What the registry shall test of instances that declare no check themselves, as `--check` of `rollcall register`:
    /// tcp, http:PATH, grpc or grpc:SERVICE, and options behind commas; may be repeated. Takes the place of all such
    /// checks
    #[arg(long = "check", value_name = "CHECK", group = "change", value_parser = values::check)]
    pub checks: Vec<CheckArg>,

    /// No such checks any more
    #[arg(long, group = "change", conflicts_with = "checks")]
    pub no_checks: bool,

    /// Remove the policy: all settings are the registry's again
    #[arg(long, group = "change")]
    #[arg(conflicts_with_all = ["dns_ttl", "fail_open_below", "evict_after"])]
    #[arg(conflicts_with_all = ["evict_unhealthy_after", "protection_threshold"])]
    #[arg(conflicts_with_all = ["checks", "no_checks"])]
    pub clear: bool,
}

/// Actions of `rollcall protection`.
#[derive(Clone, Debug, Subcommand)]
pub enum ProtectionCommand {
    /// Show what is held back, where and since when
    #[command(after_help = "Examples:
  rollcall protection show")]
    Show,
    /// Let the held leases expire now, at the configured rate
    #[command(after_help = "Examples:
  rollcall protection release
  rollcall protection release web")]
    Release {
        /// Only this [NAMESPACE/]SERVICE; the cluster-wide protection otherwise
        #[arg(value_parser = values::service)]
        service: Option<ServiceArg>,
    },
}

/// Actions of `rollcall member`.
#[derive(Clone, Debug, Subcommand)]
pub enum MemberCommand {
    /// Add the node that listens on a peer address: learner first, voter once it has caught up
    #[command(after_help = "Examples:
  rollcall member add 127.0.0.1:8310
  rollcall member add 127.0.0.1:8310 --replace 00c0ffee00c0ffee")]
    Add {
        /// Peer address of the new node, HOST:PORT
        #[arg(value_name = "ADDR", value_parser = values::peer_address)]
        address: String,
        /// Remove this member in the same step: a node that came back with an empty disk
        #[arg(long, value_name = "NODE", value_parser = values::node)]
        replace: Option<NodeArg>,
        /// Leave it a learner; `rollcall member promote` makes it a voter
        #[arg(long, conflicts_with = "replace")]
        learner: bool,
    },
    /// Remove a member
    #[command(after_help = "Examples:
  rollcall member remove n3")]
    Remove {
        /// Node id (16 hexadecimal digits) or name
        #[arg(value_parser = values::node)]
        node: NodeArg,
    },
    /// Make a learner a voter
    #[command(after_help = "Examples:
  rollcall member promote 00c0ffee00c0ffee")]
    Promote {
        /// Node id (16 hexadecimal digits) or name
        #[arg(value_parser = values::node)]
        node: NodeArg,
    },
}

/// Actions of `rollcall leader`.
#[derive(Clone, Debug, Subcommand)]
pub enum LeaderCommand {
    /// Hand the leadership over
    #[command(after_help = "Examples:
  rollcall leader transfer
  rollcall leader transfer n2")]
    Transfer {
        /// Node id or name of the new leader; the most up-to-date voter otherwise
        #[arg(value_parser = values::node)]
        node: Option<NodeArg>,
    },
}

/// Actions of `rollcall snapshot`.
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Make the asked node take a snapshot now
    #[command(after_help = "Examples:
  rollcall snapshot trigger --addr 127.0.0.1:8502")]
    Trigger,
    /// Save a consistent copy of the whole state
    #[command(after_help = "Examples:
  rollcall snapshot export rollcall.snap")]
    Export {
        /// File to write; it must not exist
        file: PathBuf,
    },
    /// Tell what a snapshot file holds, without a registry
    #[command(after_help = "Examples:
  rollcall snapshot inspect rollcall.snap")]
    Inspect {
        /// File to read
        file: PathBuf,
    },
}
