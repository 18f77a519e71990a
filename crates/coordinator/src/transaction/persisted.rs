//! What the records of one partition say. Changed by [`PersistedTransactions::replay`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::transaction::metadata::TransactionMetadata;
use crate::transaction::record_codec::TransactionRecord;

/// The state that follows from records, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistedTransactions {
    pub(crate) transactions: BTreeMap<Arc<str>, TransactionMetadata>,
}

impl PersistedTransactions {
    /// Applies one record. Tombstones of what does not exist change nothing.
    pub fn replay(&mut self, record: &TransactionRecord) {
        match &record.value {
            Some(metadata) => {
                self.transactions.insert(Arc::clone(&record.transactional_id), metadata.clone());
            }
            None => {
                self.transactions.remove(&record.transactional_id);
            }
        }
    }

    /// What is persisted of a transactional id.
    #[must_use]
    pub fn transaction(&self, transactional_id: &str) -> Option<&TransactionMetadata> {
        self.transactions.get(transactional_id)
    }

    /// Every transactional id, ascending.
    pub fn transactions(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &TransactionMetadata)> {
        self.transactions.iter()
    }

    /// Number of transactional ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
}
