//! Task supervision: every background task has a name, an owner, and an end.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Starts named tasks, tells all of them to stop, and reports the first that ended although it should not have.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
    failure: watch::Sender<Option<String>>,
}

/// Tells a task that it should end.
#[derive(Clone, Debug)]
pub struct StopSignal {
    stop: watch::Receiver<bool>,
}

impl StopSignal {
    /// Completes once a stop was asked for, at once if that is already so.
    pub async fn stopped(&mut self) {
        // An error means that the supervisor is gone, which is a stop as well.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                tasks: Mutex::new(JoinSet::new()),
                stop: watch::Sender::new(false),
                failure: watch::Sender::new(None),
            }),
        }
    }
}

impl Supervisor {
    /// Runs `task` in the background. An error it returns is fatal to the process: see [`Self::failed`].
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.lock().spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "background task failed");
                inner.failure.send_if_modified(|failure| {
                    let first = failure.is_none();
                    failure.get_or_insert_with(|| format!("{name}: {error}"));
                    first
                });
            }
        });
    }

    /// Runs `task` in the background until it ends, which is no failure, or a stop is asked for. Then it is dropped where it
    /// waits: for tasks that leave nothing half done between two of their steps.
    pub fn spawn_until_stopped<F>(&self, name: &'static str, task: F)
    where
        F: Future + Send + 'static,
    {
        let mut stop = self.stop_signal();
        self.spawn(name, async move {
            tokio::select! {
                biased;
                () = stop.stopped() => {}
                _ = task => {}
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// A signal for one task.
    #[must_use]
    pub fn stop_signal(&self) -> StopSignal {
        StopSignal { stop: self.inner.stop.subscribe() }
    }

    /// Completes with the message of the first failed task; never if none fails.
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(message) => message.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Asks all tasks to stop and waits for them, at most `grace`; the rest are aborted.
    pub async fn stop(&self, grace: std::time::Duration) {
        self.inner.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock());
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            tracing::warn!(still_running = tasks.len(), "tasks did not stop in time and are aborted");
            tasks.abort_all();
        }
    }
}
