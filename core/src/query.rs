//! Which instances an answer holds, and in which order. Defined here once, for gRPC, DNS and every later surface.

use crate::{
    instance::Locality,
    record::{AdminState, HealthStatus, Record},
    state::Service,
};
use std::sync::Arc;

/// Which health an answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum HealthFilter {
    /// ENABLED and (HEALTHY or DEGRADED).
    #[default]
    Routable,
    /// ENABLED and HEALTHY.
    Healthy,
    /// Everything that is registered.
    Any,
}

/// What a reader asks for. Equal filters share one encoded answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Filter {
    /// Which health.
    pub health: HealthFilter,
    /// All of these tags.
    pub tags: Vec<Arc<str>>,
    /// All of these metadata pairs.
    pub metadata: Vec<(Arc<str>, Arc<str>)>,
    /// Only instances with an endpoint of this name; empty = any.
    pub endpoint: Arc<str>,
}

impl Filter {
    /// Whether the record belongs to the answer.
    pub fn matches(&self, record: &Record) -> bool {
        let healthy = match self.health {
            HealthFilter::Routable => record.routable(),
            HealthFilter::Healthy => {
                record.health == HealthStatus::Healthy
                    && record.admin_state() == AdminState::Enabled
            }
            HealthFilter::Any => true,
        };
        healthy && self.selects(record)
    }

    /// Whether the record belongs to the answer as far as tags, metadata and endpoint go.
    pub fn selects(&self, record: &Record) -> bool {
        let spec = &record.spec;
        self.tags.iter().all(|tag| spec.has_tag(tag))
            && self.metadata.iter().all(|(key, value)| spec.metadata(key) == Some(value))
            && (self.endpoint.is_empty() || spec.endpoint(&self.endpoint).is_some())
    }
}

/// The instances of an answer.
#[derive(Debug, Clone)]
pub struct Selection {
    /// In order of instance id.
    pub records: Vec<Arc<Record>>,
    /// Too few were routable: the answer holds all that are not in maintenance, with their true statuses.
    pub fail_open: bool,
}

/// Selects from a service, in order of instance id.
pub fn select(service: &Service, filter: &Filter) -> Selection {
    if filter.health != HealthFilter::Any && fails_open(service) {
        let open = |record: &&Arc<Record>| {
            record.admin_state() != AdminState::Maintenance && filter.selects(record)
        };
        let records = service.instances.values().filter(open).cloned().collect();
        return Selection { records, fail_open: true };
    }
    let records = service.instances.values().filter(|r| filter.matches(r)).cloned().collect();
    Selection { records, fail_open: false }
}

/// Whether the share of routable instances is below the policy's `fail_open_below`.
pub fn fails_open(service: &Service) -> bool {
    let Some(below) = service.policy.as_ref().and_then(|policy| policy.fail_open_below) else {
        return false;
    };
    let candidates =
        || service.instances.values().filter(|record| record.admin_state() == AdminState::Enabled);
    let all = candidates().count();
    let routable = candidates().filter(|record| record.routable()).count();
    #[expect(clippy::cast_precision_loss, reason = "a service has at most 20,000 instances")]
    let share = routable as f64 / all.max(1) as f64;
    all > 0 && share < below
}

/// Orders by distance from the caller, then by instance id.
pub fn nearest_first(records: &mut [Arc<Record>], caller: &Locality) {
    records.sort_by(|a, b| {
        let distance = |record: &Record| caller.distance(&record.spec.locality);
        distance(a).cmp(&distance(b)).then_with(|| a.name.id.cmp(&b.name.id))
    });
}
