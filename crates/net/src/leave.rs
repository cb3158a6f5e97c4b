//! When a connection is told to end: all of them at a drain, and one of gRPC when it is old, or has been idle for long.
//! What is under way is finished then, and nothing new begins.

use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::stall::Stalls;

/// Connections that are told to end together.
#[derive(Default)]
pub(crate) struct Farewell(watch::Sender<bool>);

impl Farewell {
    /// For one connection, which is waited for until this goes.
    pub(crate) fn watcher(&self) -> Watcher {
        Watcher(self.0.subscribe())
    }

    /// Tells all connections, and waits until they have ended.
    pub(crate) async fn say(&self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }
}

/// A connection's ear for it.
pub(crate) struct Watcher(watch::Receiver<bool>);

impl Watcher {
    async fn told(&mut self) {
        // Nobody is left who could tell: the server is gone, and this with it.
        let _ = self.0.wait_for(|is_told| *is_told).await;
    }
}

/// What limits the life of a connection, as gRPC's channel arguments do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetime {
    /// It is told to end when it is so old, or up to a tenth younger or older: not all at the same time.
    pub age: Option<Duration>,
    /// What is under way then has so long to finish.
    pub grace: Option<Duration>,
    /// It is told to end when there was no request for so long.
    pub idle: Option<Duration>,
}

impl Lifetime {
    /// Waits until a connection is to end. What it has to finish then, if that is limited.
    async fn over(self, watcher: &mut Watcher, requests: &Requests) -> Option<Duration> {
        tokio::select! {
            () = watcher.told() => None,
            () = after(self.age.map(|age| age.mul_f64(spread(RandomState::new().hash_one(0))))) => self.grace,
            () = requests.none_for(self.idle) => None,
        }
    }
}

/// From 0.9 to 1.1.
fn spread(random: u64) -> f64 {
    0.9 + 0.2 * (random >> 11) as f64 / (1_u64 << 53) as f64
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The requests of a connection that are under way.
#[derive(Clone, Default)]
pub(crate) struct Requests(Arc<Counted>);

#[derive(Default)]
struct Counted {
    count: AtomicUsize,
    /// From none to some, or back.
    changed: Notify,
}

impl Requests {
    /// Notes one, which is under way until the guard goes.
    pub(crate) fn begin(&self) -> UnderWay {
        if self.0.count.fetch_add(1, Ordering::AcqRel) == 0 {
            self.0.changed.notify_one();
        }
        UnderWay(self.clone())
    }

    /// Waits until there has been none for so long.
    async fn none_for(&self, time: Option<Duration>) {
        if time.is_none() {
            return std::future::pending().await; // they are not even counted
        }
        loop {
            let limit = time.filter(|_| self.0.count.load(Ordering::Acquire) == 0);
            tokio::select! {
                () = after(limit) => return,
                () = self.0.changed.notified() => {}
            }
        }
    }
}

/// One of them.
pub(crate) struct UnderWay(Requests);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Counted { count, changed } = &*self.0.0;
        if count.fetch_sub(1, Ordering::AcqRel) == 1 {
            changed.notify_one();
        }
    }
}

/// A connection until either side is done with it, or the client takes nothing of what it is sent. `leave` is how it is
/// told to end when its life is over.
pub(crate) async fn until_done<C: Future>(
    connection: C,
    leave: fn(Pin<&mut C>),
    mut watcher: Watcher,
    lifetime: Lifetime,
    requests: &Requests,
    stalls: &Stalls,
) {
    let (mut connection, mut stalled) = (pin!(connection), pin!(stalls.too_long()));
    let grace = tokio::select! {
        biased;
        _ = &mut connection => return,
        () = &mut stalled => return,
        grace = lifetime.over(&mut watcher, requests) => grace,
    };
    leave(connection.as_mut());
    tokio::select! {
        biased;
        _ = connection => {}
        () = stalled => {}
        () = after(grace) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        assert!((spread(0) - 0.9).abs() < 1e-9 && (spread(u64::MAX) - 1.1).abs() < 1e-9);
    }

    /// After how many seconds the life of a connection is over, and what it has to finish; its requests begin and end at
    /// these seconds.
    async fn over(lifetime: Lifetime, requests: &[(u64, u64)]) -> Option<(u64, Option<Duration>)> {
        let (farewell, begin, counted) = (Farewell::default(), Instant::now(), Requests::default());
        let mut watcher = farewell.watcher();
        for (from, to) in requests.iter().copied() {
            let counted = counted.clone();
            tokio::spawn(async move {
                sleep(Duration::from_secs(from)).await;
                let _request = counted.begin();
                sleep(Duration::from_secs(to - from)).await;
            });
        }
        let over = lifetime.over(&mut watcher, &counted);
        let grace = timeout(Duration::from_secs(1000), over).await.ok()?;
        Some((begin.elapsed().as_secs(), grace))
    }

    #[tokio::test(start_paused = true)]
    async fn lives_end_by_age_or_for_want_of_requests() {
        let second = Duration::from_secs(1);
        assert_eq!(over(Lifetime::default(), &[(1, 2)]).await, None);
        let idle = Lifetime { idle: Some(10 * second), ..Lifetime::default() };
        assert_eq!(over(idle, &[]).await, Some((10, None)));
        assert_eq!(over(idle, &[(1, 50), (40, 60), (65, 66)]).await, Some((76, None)));
        assert_eq!(over(idle, &[(1, 2000)]).await, None);
        let old = Lifetime { age: Some(100 * second), grace: Some(second), idle: None };
        let (age, grace) = over(old, &[(1, 2000)]).await.expect("it grows old");
        assert!((90..=110).contains(&age) && grace == Some(second), "{age} {grace:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_farewell_waits_for_all() {
        let farewell = Farewell::default();
        let mut watcher = farewell.watcher();
        let told = async {
            watcher.told().await;
            sleep(Duration::from_secs(5)).await;
            drop(watcher);
        };
        let begin = Instant::now();
        tokio::join!(farewell.say(), told);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }
}
