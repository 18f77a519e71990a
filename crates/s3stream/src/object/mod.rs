//! Objects in the store: their keys, how they are assembled, and how they are read.

pub(crate) mod builder;
pub(crate) mod key;
pub(crate) mod put;
pub(crate) mod reader;
