//! Who leads what since when, as brokers tell it.

use std::collections::HashMap;

use super::{Defect, Kind};

#[derive(Debug, Default)]
pub(super) struct Leaders {
    /// The one leader of each (partition, epoch).
    of: HashMap<(u32, i32), u32>,
    /// The newest epoch that each broker told of each partition.
    told: HashMap<(u32, u32), i32>,
}

impl Leaders {
    pub(super) fn said(&mut self, source: u32, partition: u32, epoch: i32, leader: u32) -> Option<Defect> {
        let known = *self.of.entry((partition, epoch)).or_insert(leader);
        let told = self.told.entry((source, partition)).or_insert(epoch);
        let before = *told;
        *told = before.max(epoch);
        let at = u64::from(epoch.unsigned_abs());
        if known != leader {
            let detail = format!("broker {source} says {leader} leads in epoch {epoch}, another said {known}");
            return Some(Defect::new(Kind::TwoLeadersInOneEpoch, at, detail));
        }
        (epoch < before).then(|| {
            Defect::new(Kind::LeaderEpochWentBack, at, format!("broker {source} had told of epoch {before} before"))
        })
    }

    pub(super) fn lost(&mut self, source: u32) {
        self.told.retain(|(teller, _), _| *teller != source);
    }
}
