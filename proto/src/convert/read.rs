//! Requests that only ask, into what the registry looks up; and what a reader of answers needs.

use super::{
    MANY, PAGE,
    problems::{Problems, Refused},
    spec::{read_locality, read_metadata, read_name, read_service, read_tags},
};
use crate::{internal::v1::ResumeToken, v1};
use prost::Message as _;
use rollcall_core::{
    instance::Locality,
    name::{InstanceName, Invalid, Label, ServiceName, parse_namespace},
    query::{Filter, HealthFilter},
    record::{AdminState, HealthStatus, Reason},
};
use std::{collections::BTreeSet, time::Duration};

/// Longest `max_staleness`.
const STALENESS_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bounds of the pace of bookmarks; the longer one is the default.
const BOOKMARK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest resume token in bytes.
const TOKEN_BYTES: usize = 128;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Whatever this node has.
    Stale,
    /// At most this old.
    Bounded(Duration),
    /// Confirmed by the leader.
    Linearizable,
}

/// What must hold before the answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Mode.
    pub consistency: Consistency,
    /// Revision that must be shown; 0 = any.
    pub min_revision: u64,
}

/// A lookup of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveQuery {
    /// Which service.
    pub service: ServiceName,
    /// Which of its instances. Equal filters are equal values: tags and metadata are sorted.
    pub filter: Filter,
    /// The answer is `not_modified` where this is its service revision.
    pub known_service_revision: Option<u64>,
    /// How fresh. Equal for all queries of a batch.
    pub freshness: Freshness,
    /// The caller's place. Equal for all queries of a batch.
    pub locality: Option<Locality>,
}

/// Several lookups, to be answered from one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchQuery {
    /// 1-1,000.
    pub queries: Vec<ResolveQuery>,
    /// How fresh.
    pub freshness: Freshness,
}

/// A lookup of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceQuery {
    /// Which instance.
    pub name: InstanceName,
    /// How fresh.
    pub freshness: Freshness,
}

/// A page of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Which namespace.
    pub namespace: Label,
    /// Only names that begin like this.
    pub prefix: String,
    /// Only names after this one.
    pub after: Option<Label>,
    /// Most services of the page, 1-1,000.
    pub limit: usize,
    /// How fresh.
    pub freshness: Freshness,
}

/// What a watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchTarget {
    /// These: 1-1,000, none twice, in order of name.
    Services(Vec<ServiceName>),
    /// All of a namespace whose names begin like this.
    Pattern {
        /// Which namespace.
        namespace: Label,
        /// Empty = all.
        prefix: String,
    },
}

/// A watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchQuery {
    /// What it covers.
    pub target: WatchTarget,
    /// Which instances.
    pub filter: Filter,
    /// Where it resumes; `None` = from the beginning.
    pub resume: Option<Token>,
    /// Pace of bookmarks, 1-30 s.
    pub bookmark_interval: Duration,
}

/// Whose past is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistorySubject {
    /// Everything.
    All,
    /// One instance.
    Instance(InstanceName),
    /// One service.
    Service(ServiceName),
}

/// A page of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Whose.
    pub subject: HistorySubject,
    /// Most events of the page, 1-1,000.
    pub limit: usize,
    /// Only events before this revision.
    pub before: Option<u64>,
    /// Revision that must be shown; 0 = any.
    pub min_revision: u64,
}

/// Where a tail begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailStart {
    /// With the next event.
    Now,
    /// Where another one ended.
    Token(Token),
    /// After this revision.
    After(u64),
}

/// A tail of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailQuery {
    /// Where it begins.
    pub start: TailStart,
    /// Only events of this service.
    pub service: Option<ServiceName>,
}

/// Where a watch or a tail goes on, on any node of the same cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which cluster; a token of another one is good for nothing.
    pub cluster_id: String,
    /// Which epoch of it; likewise.
    pub epoch: u32,
    /// Everything up to this revision has been seen.
    pub revision: u64,
}

impl Token {
    /// The token as opaque bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { cluster_id, epoch, revision } = self.clone();
        ResumeToken { cluster_id, epoch, revision }.encode_to_vec()
    }

    /// Reads a token. Errors name the field `resume_token`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let refuse = || Invalid::new("resume_token", "is not a token that a registry has given");
        if bytes.is_empty() || bytes.len() > TOKEN_BYTES {
            return Err(refuse());
        }
        let token = ResumeToken::decode(bytes).map_err(|_| refuse())?;
        let ResumeToken { cluster_id, epoch, revision } = token;
        Ok(Self { cluster_id, epoch, revision })
    }
}

/// A lookup of one service.
pub fn resolve_query(request: v1::ResolveRequest) -> Result<ResolveQuery, Refused> {
    let mut problems = Problems::default();
    let service = read_service("service", request.service, &mut problems);
    let filter = read_filter(request.filter, &mut problems);
    let freshness = read_freshness(
        request.consistency,
        request.max_staleness,
        request.min_revision,
        &mut problems,
    );
    let locality = read_place(request.client_locality, &mut problems);
    let query = (|| {
        Some(ResolveQuery {
            service: service?,
            filter: filter?,
            known_service_revision: request.known_service_revision,
            freshness: freshness?,
            locality: locality?,
        })
    })();
    problems.finish(query)
}

/// Several lookups.
pub fn batch_query(request: v1::BatchResolveRequest) -> Result<BatchQuery, Refused> {
    let mut problems = Problems::default();
    let freshness = read_freshness(
        request.consistency,
        request.max_staleness,
        request.min_revision,
        &mut problems,
    );
    let locality = read_place(request.client_locality, &mut problems);
    let queries = problems.count("queries", request.queries.len(), 1, MANY).and_then(|()| {
        problems.each("queries", request.queries, |problems, query| {
            let service = read_service("service", query.service, problems);
            let filter = read_filter(query.filter, problems);
            Some(ResolveQuery {
                service: service?,
                filter: filter?,
                known_service_revision: query.known_service_revision,
                freshness: freshness?,
                locality: locality.clone()?,
            })
        })
    });
    let query = (|| Some(BatchQuery { queries: queries?, freshness: freshness? }))();
    problems.finish(query)
}

/// A lookup of one instance.
pub fn instance_query(request: v1::GetInstanceRequest) -> Result<InstanceQuery, Refused> {
    let mut problems = Problems::default();
    let name = read_name(request.name, &mut problems);
    let freshness = read_freshness(
        request.consistency,
        request.max_staleness,
        request.min_revision,
        &mut problems,
    );
    let query = (|| Some(InstanceQuery { name: name?, freshness: freshness? }))();
    problems.finish(query)
}

/// A page of services.
pub fn list_query(request: &v1::ListServicesRequest) -> Result<ListQuery, Refused> {
    let mut problems = Problems::default();
    let namespace = problems.take(parse_namespace(&request.namespace));
    let prefix = problems.prefix("name_prefix", &request.name_prefix);
    let after = if request.page_token.is_empty() {
        Some(None)
    } else {
        problems.take(Label::parse("page_token", &request.page_token)).map(Some)
    };
    let limit = read_limit("page_size", request.page_size, &mut problems);
    let freshness = read_freshness(
        request.consistency,
        request.max_staleness,
        request.min_revision,
        &mut problems,
    );
    let query = (|| {
        Some(ListQuery {
            namespace: namespace?,
            prefix: prefix?,
            after: after?,
            limit: limit?,
            freshness: freshness?,
        })
    })();
    problems.finish(query)
}

/// The token of the page that follows the one that ends with this service.
pub fn page_token(last: &Label) -> String {
    last.to_string()
}

/// A watch.
pub fn watch_query(request: v1::WatchRequest) -> Result<WatchQuery, Refused> {
    let mut problems = Problems::default();
    let target = problems.need("target", request.target);
    let target = target.and_then(|target| read_target(target, &mut problems));
    let filter = read_filter(request.filter, &mut problems);
    let resume = match &request.resume_token[..] {
        [] => Some(None),
        token => problems.take(Token::decode(token)).map(Some),
    };
    let interval = problems.duration("bookmark_interval", request.bookmark_interval);
    let interval = interval.map(|interval| interval.unwrap_or(BOOKMARK.1));
    if let Some(pace) = interval
        && !(BOOKMARK.0..=BOOKMARK.1).contains(&pace)
    {
        problems.add("bookmark_interval", format!("{pace:?}: 1s to 30s are allowed"));
    }
    let query = (|| {
        Some(WatchQuery {
            target: target?,
            filter: filter?,
            resume: resume?,
            bookmark_interval: interval?,
        })
    })();
    problems.finish(query)
}

fn read_target(target: v1::watch_request::Target, problems: &mut Problems) -> Option<WatchTarget> {
    use v1::watch_request::Target;
    match target {
        Target::Services(list) => {
            problems.count("services.names", list.names.len(), 1, MANY)?;
            let mut known = BTreeSet::new();
            problems.each("services.names", list.names, |problems, name| {
                let name = problems.take(ServiceName::parse(&name.namespace, &name.service))?;
                if known.contains(&name) {
                    problems.add("", format!("{name} is named twice"));
                }
                known.insert(name).then_some(())
            })?;
            Some(WatchTarget::Services(known.into_iter().collect()))
        }
        Target::Pattern(pattern) => problems.within(
            || "pattern".into(),
            |problems| {
                let namespace = problems.take(parse_namespace(&pattern.namespace));
                let prefix = problems.prefix("name_prefix", &pattern.name_prefix);
                Some(WatchTarget::Pattern { namespace: namespace?, prefix: prefix? })
            },
        ),
    }
}

/// A page of the past.
pub fn history_query(request: v1::HistoryRequest) -> Result<HistoryQuery, Refused> {
    use v1::history_request::Subject;
    let mut problems = Problems::default();
    let subject = match request.subject {
        None => Some(HistorySubject::All),
        Some(Subject::Instance(name)) => problems
            .within(
                || "instance".into(),
                |p| p.take(InstanceName::parse(&name.namespace, &name.service, &name.instance_id)),
            )
            .map(HistorySubject::Instance),
        Some(Subject::Service(name)) => {
            read_service("service", Some(name), &mut problems).map(HistorySubject::Service)
        }
    };
    let limit = read_limit("limit", request.limit, &mut problems);
    let before = Some(request.before_revision).filter(|revision| *revision != 0);
    let min_revision = request.min_revision;
    let query =
        (|| Some(HistoryQuery { subject: subject?, limit: limit?, before, min_revision }))();
    problems.finish(query)
}

/// A tail of the journal.
pub fn tail_query(request: v1::TailRequest) -> Result<TailQuery, Refused> {
    use v1::tail_request::Start;
    let mut problems = Problems::default();
    let start = match request.start {
        None => Some(TailStart::Now),
        Some(Start::ResumeToken(token)) => {
            problems.take(Token::decode(&token)).map(TailStart::Token)
        }
        Some(Start::AfterRevision(revision)) => Some(TailStart::After(revision)),
    };
    let service = match request.service {
        None => Some(None),
        name => read_service("service", name, &mut problems).map(Some),
    };
    let query = (|| Some(TailQuery { start: start?, service: service? }))();
    problems.finish(query)
}

fn read_limit(field: &str, limit: u32, problems: &mut Problems) -> Option<usize> {
    match limit as usize {
        0 => Some(PAGE),
        limit => problems.count(field, limit, 0, MANY).map(|()| limit),
    }
}

#[expect(clippy::option_option, reason = "the outer one tells of a refusal")]
fn read_place(place: Option<v1::Locality>, problems: &mut Problems) -> Option<Option<Locality>> {
    let Some(place) = place else { return Some(None) };
    problems.within(|| "client_locality".into(), |p| read_locality(&place, p)).map(Some)
}

fn read_filter(filter: Option<v1::ResolveFilter>, problems: &mut Problems) -> Option<Filter> {
    let Some(filter) = filter else { return Some(Filter::default()) };
    problems.within(
        || "filter".into(),
        |problems| {
            let health = match problems.known("health", filter.health) {
                Some(v1::HealthFilter::Unspecified | v1::HealthFilter::Routable) => {
                    Some(HealthFilter::Routable)
                }
                Some(v1::HealthFilter::HealthyOnly) => Some(HealthFilter::Healthy),
                Some(v1::HealthFilter::Any) => Some(HealthFilter::Any),
                None => None,
            };
            let tags = read_tags(filter.tags, problems);
            let metadata = read_metadata(filter.metadata, problems);
            let endpoint = match &filter.endpoint_name[..] {
                "" => Some("".into()),
                name => problems
                    .take(Label::parse("endpoint_name", name))
                    .map(|name| name.as_str().into()),
            };
            let mut tags = tags?;
            tags.sort();
            tags.dedup();
            Some(Filter { health: health?, tags, metadata: metadata?, endpoint: endpoint? })
        },
    )
}

fn read_freshness(
    consistency: i32,
    max_staleness: Option<prost_types::Duration>,
    min_revision: u64,
    problems: &mut Problems,
) -> Option<Freshness> {
    let bound = problems.duration("max_staleness", max_staleness);
    let consistency = match problems.known("consistency", consistency)? {
        v1::Consistency::Unspecified | v1::Consistency::Stale => Consistency::Stale,
        v1::Consistency::Linearizable => Consistency::Linearizable,
        v1::Consistency::Bounded => match bound? {
            Some(bound) if bound > Duration::ZERO && bound <= STALENESS_MAX => {
                return Some(Freshness { consistency: Consistency::Bounded(bound), min_revision });
            }
            Some(bound) => {
                problems.add("max_staleness", format!("{bound:?}: more than 0 to 24h are allowed"));
                return None;
            }
            None => return problems.need("max_staleness", None),
        },
    };
    if bound?.is_some() {
        problems.add("max_staleness", "goes with CONSISTENCY_BOUNDED alone");
        return None;
    }
    Some(Freshness { consistency, min_revision })
}

// === What a reader of answers needs ===

/// Health in an answer; `None` where this version does not know it.
pub fn read_health_status(value: i32) -> Option<HealthStatus> {
    match v1::HealthStatus::try_from(value).ok()? {
        v1::HealthStatus::Unspecified => None,
        v1::HealthStatus::Starting => Some(HealthStatus::Starting),
        v1::HealthStatus::Healthy => Some(HealthStatus::Healthy),
        v1::HealthStatus::Degraded => Some(HealthStatus::Degraded),
        v1::HealthStatus::Unhealthy => Some(HealthStatus::Unhealthy),
        v1::HealthStatus::Expired => Some(HealthStatus::Expired),
    }
}

/// Admin state in an answer; `None` where this version does not know it.
pub fn read_admin_state(value: i32) -> Option<AdminState> {
    match v1::AdminState::try_from(value).ok()? {
        v1::AdminState::Unspecified => None,
        v1::AdminState::Enabled => Some(AdminState::Enabled),
        v1::AdminState::Draining => Some(AdminState::Draining),
        v1::AdminState::Maintenance => Some(AdminState::Maintenance),
    }
}

/// Reason of an event; `None` where this version does not know it.
pub fn read_event_reason(value: i32) -> Option<Reason> {
    use v1::EventReason as Wire;
    Some(match Wire::try_from(value).ok()? {
        Wire::Unspecified => return None,
        Wire::Registered => Reason::Registered,
        Wire::Updated => Reason::Updated,
        Wire::TakenOver => Reason::TakenOver,
        Wire::Restored => Reason::Restored,
        Wire::LeaseExpired => Reason::LeaseExpired,
        Wire::HeartbeatLost => Reason::HeartbeatLost,
        Wire::Deregistered => Reason::Deregistered,
        Wire::Removed => Reason::Removed,
        Wire::Evicted => Reason::Evicted,
        Wire::AdminSet => Reason::AdminSet,
        Wire::AdminExpired => Reason::AdminExpired,
        Wire::PolicyPut => Reason::PolicyPut,
        Wire::PolicyDeleted => Reason::PolicyDeleted,
        Wire::ProtectionEntered => Reason::ProtectionEntered,
        Wire::ProtectionEnded => Reason::ProtectionEnded,
        Wire::ProtectionReleased => Reason::ProtectionReleased,
        Wire::ProtectionTimedOut => Reason::ProtectionTimedOut,
        Wire::CheckPassed => Reason::CheckPassed,
        Wire::CheckFailed => Reason::CheckFailed,
        Wire::CheckFlaps => Reason::CheckFlaps,
        Wire::CheckSteady => Reason::CheckSteady,
        Wire::ChecksChanged => Reason::ChecksChanged,
        Wire::StreamBroken => Reason::StreamBroken,
        Wire::SelfDegraded => Reason::SelfDegraded,
        Wire::SelfRecovered => Reason::SelfRecovered,
    })
}
