//! Work that blocks a thread, awaited by tasks that must not.

use std::future::Future;
use std::io;

use tokio::sync::mpsc;

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

/// Where [`blocking_pieces`] takes its pieces. Fails once nobody takes them any more.
pub type PieceSink<'a, P> = dyn FnMut(P) -> io::Result<()> + 'a;

/// Does `work` as [`blocking`] does; what it makes piece by piece comes out of the receiver. The work waits while `ahead`
/// pieces have not been taken. The receiver and the future go on side by side.
pub fn blocking_pieces<P: Send + 'static, T: Send + 'static>(
    ahead: usize,
    work: impl FnOnce(&mut PieceSink<'_, P>) -> T + Send + 'static,
) -> (mpsc::Receiver<P>, impl Future<Output = T> + Send) {
    // In a simulation nobody could take while the work is done, so that all of it is made ahead.
    let ahead = if cfg!(feature = "simulation") { usize::MAX >> 3 } else { ahead };
    let (sender, pieces) = mpsc::channel(ahead);
    let mut put = move |piece| match cfg!(feature = "simulation") {
        true => sender.try_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        false => sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into()),
    };
    (pieces, blocking(move || work(&mut put)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_come_while_the_work_goes_on_and_end_with_it() {
        let (mut pieces, work) = blocking_pieces(1, |put| (0..100).try_for_each(|piece: u32| put(piece)));
        let taken = async {
            let mut taken = Vec::new();
            while let Some(piece) = pieces.recv().await {
                taken.push(piece);
            }
            taken
        };
        let (done, taken) = tokio::join!(work, taken);
        done.expect("all were taken");
        assert_eq!(taken, Vec::from_iter(0..100));
    }

    #[tokio::test]
    async fn work_whose_pieces_nobody_takes_fails() {
        let (pieces, work) = blocking_pieces(1, |put| (0..100).try_for_each(|piece: u32| put(piece)));
        drop(pieces);
        assert_eq!(work.await.expect_err("nobody takes").kind(), io::ErrorKind::BrokenPipe);
    }

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
