//! `ottla drill`: disturbs a cluster while real clients work on it, then judges what they saw.

pub mod history;
