//! The object store: opening one by URL, and decorators around the `object_store` crate's trait.
