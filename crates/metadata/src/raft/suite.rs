//! openraft's own suite for log storage and state machines, on any store behind the port.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log_storage::LogStorage;
use super::machine::Machine;
use super::types::TypeConfig;
use crate::client::Images;
use crate::log::RaftLogStore;

struct Builder<'a, M>(&'a M);

impl<M, F> StoreBuilder<TypeConfig, LogStorage, Machine, F> for Builder<'_, M>
where
    M: Fn() -> F + Send + Sync,
    F: Fn() -> Arc<dyn RaftLogStore>,
{
    async fn build(&self) -> Result<(F, LogStorage, Machine), StorageError<TypeConfig>> {
        // Whoever can open the store owns the place it lies in: it has to live as long as the store.
        let open = (self.0)();
        let store = open();
        let machine = Machine::new(Arc::clone(&store), Arc::new(Images::default()));
        Ok((open, LogStorage::new(store), machine))
    }
}

/// Panics where the store, or what is built on it, is not what Raft needs.
pub(crate) async fn check<F>(fresh: &(impl Fn() -> F + Send + Sync))
where
    F: Fn() -> Arc<dyn RaftLogStore> + Send + Sync,
{
    if let Err(error) = Suite::test_all(Builder(fresh)).await {
        panic!("the storage does not pass openraft's suite: {error}");
    }
}
