//! Room for so many at once, and a short wait for who comes when it is taken: a burst is served a little later, and an
//! overload is told so soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places, and the queue for them. Who came first is served first.
#[derive(Debug)]
pub struct Queue {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// How many may wait; the next one is refused at once.
    most: usize,
    patience: Duration,
}

/// Somebody who waits, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// So many places, and as many who may wait for one, each for that long.
    pub fn new(places: usize, patience: Duration) -> Self {
        let most = if patience.is_zero() { 0 } else { places };
        Self { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), most, patience }
    }

    /// A place; none if none has become free in time, or too many wait already. Who gives up leaves the queue.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let _waiting = {
            let before = self.waiting.fetch_add(1, Ordering::Relaxed);
            let waiting = Waiting(&self.waiting);
            if before >= self.most {
                return None;
            }
            waiting
        };
        tokio::time::timeout(self.patience, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_waits_a_little_and_an_overload_is_refused() {
        let queue = Arc::new(Queue::new(2, Duration::from_millis(500)));
        let held = [queue.enter().await.expect("free"), queue.enter().await.expect("free")];
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { queue.enter().await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(queue.enter().await.is_none(), "as many wait as may");
        drop(held);
        for waits in waiting {
            assert!(waits.await.expect("no panic").is_some());
        }
        let _held = [queue.enter().await.expect("free"), queue.enter().await.expect("free")];
        let begun = tokio::time::Instant::now();
        assert!(queue.enter().await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(500));
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_queue() {
        let queue = Queue::new(1, Duration::from_secs(60));
        let held = queue.enter().await.expect("free");
        for _ in 0..10 {
            assert!(tokio::time::timeout(Duration::from_millis(1), queue.enter()).await.is_err());
        }
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
        drop(held);
        assert!(queue.enter().await.is_some());
        let none = Queue::new(1, Duration::ZERO);
        let _held = none.enter().await.expect("free");
        assert!(none.enter().await.is_none(), "without patience nobody waits");
    }
}
