//! The admin protocol: HTTP on a listener of its own.
//!
//! `PUT /faults` with [`Faults`] as JSON replaces the faults in force, `GET /faults` tells them,
//! `GET /stats` tells [`Stats`], `GET /objects/BUCKET` lists the keys of a bucket as a JSON array.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::faults::{Faults, Injector, Op};
use super::objects::Objects;

/// What the server was asked for, and what it holds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests by operation.
    pub requests: BTreeMap<String, u64>,
    /// Requests that did not simply succeed because of a fault.
    pub injected: u64,
    /// Objects in all buckets.
    pub objects: u64,
    /// Bytes of all objects.
    pub bytes: u64,
}

pub(super) struct Shared {
    pub(super) injector: Arc<Injector>,
    pub(super) objects: Objects,
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/faults", get(faults).put(set_faults))
        .route("/stats", get(stats))
        .route("/objects/{bucket}", get(keys))
        .with_state(shared)
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([("content-type", "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn faults(State(shared): State<Arc<Shared>>) -> Response {
    json(&shared.injector.faults())
}

async fn set_faults(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Faults>(&body) {
        Ok(faults) => {
            shared.injector.set(faults);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    let (objects, bytes) = shared.objects.size();
    let requests = Op::ALL.iter().map(|&op| (format!("{op:?}").to_lowercase(), shared.injector.requests(op)));
    json(&Stats { requests: requests.collect(), injected: shared.injector.injected(), objects, bytes })
}

async fn keys(State(shared): State<Arc<Shared>>, Path(bucket): Path<String>) -> Response {
    json(&shared.objects.keys(&bucket))
}
