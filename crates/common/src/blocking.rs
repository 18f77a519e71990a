//! Work that blocks a thread, awaited by tasks that must not.

/// Does `work` where it may block, and returns what it returned. A panic of the work goes on in the caller.
///
/// In a simulation (the cargo feature `simulation`) the work is done at once: there the devices it uses never wait, and
/// another thread would make the order of events depend on the machine.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if cfg!(feature = "simulation") {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being taken down, and whoever awaits this with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_work_returns_comes_back() {
        assert_eq!(blocking(|| 7).await, 7);
    }

    #[tokio::test]
    #[should_panic(expected = "the work's own")]
    async fn a_panic_of_the_work_goes_on_in_the_caller() {
        blocking(|| panic!("the work's own")).await
    }
}
