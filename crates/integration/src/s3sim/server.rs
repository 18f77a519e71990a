//! The listeners: S3 with faults around it, and the admin protocol.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::admin;
use super::faults::{Fate, Injector, Op};
use super::objects::Objects;

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port of the S3 listener on 127.0.0.1; 0 for any.
    pub port: u16,
    /// Port of the admin listener on 127.0.0.1; 0 for any.
    pub admin_port: u16,
    /// Access key and secret key that clients sign with.
    pub keys: (String, String),
    /// Buckets that exist from the start.
    pub buckets: Vec<String>,
    /// Where faults are drawn from.
    pub seed: u64,
}

/// A running server; it ends when this is dropped.
pub struct Running {
    /// Where S3 is spoken.
    pub s3: SocketAddr,
    /// Where the admin protocol is spoken.
    pub admin: SocketAddr,
    tasks: JoinSet<()>,
}

impl Running {
    /// Serves until the process ends.
    pub async fn forever(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts a server on the current runtime.
///
/// # Errors
/// A port cannot be bound.
pub async fn start(config: &Config) -> io::Result<Running> {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let listener = TcpListener::bind(local(config.port)).await?;
    let admin_listener = TcpListener::bind(local(config.admin_port)).await?;
    let (s3, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);

    let objects = Objects::with_buckets(&config.buckets);
    let injector = Arc::new(Injector::new(config.seed));
    let mut builder = S3ServiceBuilder::new(objects.clone());
    builder.set_auth(SimpleAuth::from_single(config.keys.0.clone(), config.keys.1.clone()));
    let service = builder.build();

    let mut tasks = JoinSet::new();
    let router = admin::router(Arc::new(admin::Shared { injector: injector.clone(), objects }));
    tasks.spawn(async move {
        // It ends only with the runtime.
        let _ = axum::serve(admin_listener, router).await;
    });
    tasks.spawn(accept(listener, service, injector));
    Ok(Running { s3, admin: admin_address, tasks })
}

async fn accept(listener: TcpListener, service: S3Service, injector: Arc<Injector>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        if !injector.unreachable() {
            connections.spawn(serve(stream, service.clone(), injector.clone()));
        }
    }
}

async fn serve(stream: TcpStream, service: S3Service, injector: Arc<Injector>) {
    // Without this a small answer waits for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request| answer(request, service.clone(), injector.clone()));
    // A connection that breaks is the client's business, and often what a test asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), handler).await;
}

/// Answers one request as its fate has it; an error cuts the connection.
async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    injector: Arc<Injector>,
) -> Result<HttpResponse, HttpError> {
    let op = Op::of(request.method().as_str(), request.uri().path(), request.uri().query().unwrap_or(""));
    let (fate, delay) = injector.draw(op);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if injector.unreachable() {
        return Err(cut());
    }
    let request = request.map(Body::from);
    match fate {
        Fate::Served => service.call(request).await,
        Fate::Refused(status) => {
            // The body is read first: a client that is still sending would see a broken connection instead.
            let _ = request.into_body().collect().await;
            failure(status)
        }
        Fate::AnsweredWith(status) => {
            service.call(request).await?;
            failure(status)
        }
        Fate::Cut => {
            service.call(request).await?;
            Err(cut())
        }
    }
}

fn cut() -> HttpError {
    HttpError::new(Box::new(io::Error::from(io::ErrorKind::ConnectionAborted)))
}

fn failure(status: u16) -> Result<HttpResponse, HttpError> {
    let code = if status == 503 { "SlowDown" } else { "InternalError" };
    let body = format!("<Error><Code>{code}</Code><Message>injected</Message></Error>");
    hyper::Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(Body::from(body))
        .map_err(|error| HttpError::new(Box::new(error)))
}
