//! How busy instances are, by their own word: figures beside the records, by generation.
//!
//! They are replicated, so that every node can show them, but nothing is decided by them: they make no revision and no
//! event, do not count in the state hash, and go with their generation.

use super::State;
use crate::{
    command::{Figure, Reported},
    name::ServiceName,
    record::Record,
    signals::Utilization,
};
use imbl::OrdMap;

impl State {
    /// How busy an instance is; `None` = not told.
    pub fn utilization(&self, record: &Record) -> Option<Utilization> {
        self.utilization.get(&record.name.service)?.get(&record.generation).copied()
    }

    /// All figures: by service, where any instance tells one, and generation.
    pub fn utilizations(&self) -> &OrdMap<ServiceName, OrdMap<u64, Utilization>> {
        &self.utilization
    }

    pub(super) fn take_figure(&mut self, figure: Figure) -> Reported {
        let Some(record) = self.by_generation(figure.generation) else {
            return Reported::Superseded;
        };
        if self.utilization(record) == figure.utilization {
            return Reported::Unchanged;
        }
        let service = record.name.service.clone();
        self.set_utilization(&service, figure.generation, figure.utilization);
        Reported::Taken
    }

    /// The one place that changes a figure; a service without any has no entry.
    pub(super) fn set_utilization(
        &mut self,
        service: &ServiceName,
        generation: u64,
        utilization: Option<Utilization>,
    ) {
        if let Some(utilization) = utilization {
            let figures = self.utilization.entry(service.clone()).or_default();
            figures.insert(generation, utilization);
        } else if let Some(figures) = self.utilization.get_mut(service) {
            figures.remove(&generation);
            if figures.is_empty() {
                self.utilization.remove(service);
            }
        }
    }
}
