//! How busy instances say they are: kept beside their records, as bookmarks tell it. Pure.
//!
//! A stream tells all figures with its first bookmarks and then what differs. Only what is told of an instance
//! that is listed is kept, and those of others go when their service is told of again: so of no service there are more
//! figures than it had instances then.

use super::{Service, Utilization};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1::InstanceUtilization;
use std::{collections::BTreeMap, sync::Arc};

pub(super) type Figures = BTreeMap<ServiceName, Arc<BTreeMap<String, Utilization>>>;

/// What is known now.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) figures: Figures,
    /// A stream was begun: its first bookmark tells everything anew.
    anew: bool,
}

impl Told {
    /// A stream begins.
    pub(super) fn begin(&mut self) {
        self.anew = true;
    }

    /// A bookmark came. Forgets what belongs to nobody any more.
    pub(super) fn bookmark(&mut self, services: &BTreeMap<ServiceName, Arc<Service>>) {
        if std::mem::take(&mut self.anew) {
            self.figures.clear();
        }
        self.figures.retain(|name, _| services.contains_key(name));
    }

    /// Takes what it says of one service. More than 100 % is no figure.
    pub(super) fn take(&mut self, service: &Service, told: Vec<InstanceUtilization>) {
        let mut figures = self.figures.remove(&service.name).unwrap_or_default();
        let changed = Arc::make_mut(&mut figures);
        changed.retain(|id, _| service.instances.contains_key(id));
        for InstanceUtilization { instance_id, percent } in told {
            let percent = percent.and_then(|percent| u8::try_from(percent).ok());
            match (percent.filter(|percent| *percent <= 100), service.instances.get(&instance_id)) {
                (Some(percent), Some(instance)) => {
                    let generation = instance.generation;
                    changed.insert(instance_id, Utilization { percent, generation });
                }
                (None, _) => {
                    changed.remove(&instance_id);
                }
                (Some(_), None) => {}
            }
        }
        if !figures.is_empty() {
            self.figures.insert(service.name.clone(), figures);
        }
    }
}
