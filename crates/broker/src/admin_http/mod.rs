//! The admin port: `/health` (the process answers), `/ready` (the broker serves clients), `/metrics`, and what an operator
//! asks of the cluster.

mod cluster;
mod orphans;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::Broker;
use crate::config::BrokerConfig;

/// What Prometheus calls the text format of [`crate::metrics::render`].
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound admin port.
pub struct AdminServer {
    socket: TcpListener,
    address: SocketAddr,
}

/// The admin port cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for ottla.admin.listener: {source}; set another address, or off")]
pub struct AdminError {
    address: String,
    source: std::io::Error,
}

impl AdminServer {
    /// Binds the configured address; `None` if the port is switched off. The default port is given up for any
    /// free one when it is taken, so that a second broker on one machine needs no configuration.
    ///
    /// # Errors
    /// An address that was asked for cannot be had.
    pub async fn bind(config: &BrokerConfig) -> Result<Option<Self>, AdminError> {
        let Some(address) = &config.admin_address else { return Ok(None) };
        let is_default = config.property("ottla.admin.listener").is_none();
        let socket = match TcpListener::bind(address).await {
            Err(error) if is_default && error.kind() == std::io::ErrorKind::AddrInUse => {
                TcpListener::bind("127.0.0.1:0").await
            }
            bound => bound,
        };
        let refuse = |source| AdminError { address: address.clone(), source };
        let socket = socket.map_err(refuse)?;
        let address = socket.local_addr().map_err(refuse)?;
        Ok(Some(Self { socket, address }))
    }

    /// The address that was really bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the broker stops.
    pub fn serve(self, broker: &Arc<Broker>) {
        let mut stop = broker.supervisor.stop_signal();
        let router = router(Arc::clone(broker));
        broker.supervisor.spawn("admin-http", async move {
            tokio::select! {
                served = axum::serve(self.socket, router) => served,
                // Whoever still waits for an answer gets none: nothing here is worth delaying a stop.
                () = stop.stopped() => Ok(()),
            }
        });
    }
}

fn router(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/brokers", get(cluster::brokers))
        .route("/brokers/{id}/drain", post(cluster::drain))
        .route("/brokers/{id}/resume", post(cluster::resume))
        .route("/wals/{uuid}/abandon", post(cluster::abandon))
        .route("/orphans", get(orphans::epochs))
        .route("/orphans/{epoch}/{hours}", get(orphans::find).delete(orphans::delete))
        .route("/balance", get(cluster::balance))
        .route("/quorum", get(cluster::quorum))
        .route("/quorum/{id}/{change}", post(cluster::change_quorum))
        .with_state(broker)
}

async fn ready(State(broker): State<Arc<Broker>>) -> Response {
    let image = broker.metadata.image();
    match image.nodes.get(&broker.config.node_id) {
        Some(node) if !node.fenced && broker.lease.is_valid() => "ready\n".into_response(),
        Some(node) if !node.fenced => (StatusCode::SERVICE_UNAVAILABLE, "no lease\n").into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "fenced\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "metadata is not loaded\n").into_response(),
    }
}

async fn metrics(State(broker): State<Arc<Broker>>) -> Response {
    match crate::metrics::render(&broker) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
