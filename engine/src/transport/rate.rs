//! The bandwidth limit: a token bucket over everything that is sent.
//!
//! The bucket is stored as the instant at which everything granted so far is paid for. This is the
//! "virtual scheduling" form of the generic cell rate algorithm (ITU-T I.371), and it needs no
//! timer of its own.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The time by which a sender may run ahead of its rate.
const BURST: Duration = Duration::from_millis(50);

/// The maximum size of a piece that is written at once under a limit, in bytes.
const MAX_PIECE: u64 = 16 * 1024;

/// The minimum size of a piece that is written at once, in bytes. Smaller ones would be mostly
/// overhead.
const MIN_PIECE: u64 = 256;

/// A limit of bytes per second. Clones share it, so several connections together stay under one
/// limit.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    bytes_per_s: NonZeroU64,
    paid_until: Arc<Mutex<Instant>>,
}

impl RateLimiter {
    /// Makes a limit that starts with a full bucket.
    pub fn new(bytes_per_s: NonZeroU64) -> Self {
        Self {
            bytes_per_s,
            paid_until: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Returns the number of bytes to write between two calls of [`take`](Self::take), so that the
    /// flow is even.
    pub(crate) fn piece_size(&self) -> usize {
        let piece = (self.bytes_per_s.get() / 20).clamp(MIN_PIECE, MAX_PIECE);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    /// Waits until this many bytes may be sent.
    pub async fn take(&self, bytes: usize) {
        let paid_until = self.book(bytes, Instant::now());
        if let Some(start) = paid_until.checked_sub(BURST) {
            sleep_until(start).await;
        }
    }

    fn book(&self, bytes: usize, now: Instant) -> Instant {
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_s.get());
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *paid_until = (*paid_until).max(now) + cost;
        *paid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(bytes_per_s: u64) -> RateLimiter {
        RateLimiter::new(NonZeroU64::new(bytes_per_s).unwrap())
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn the_rate_is_kept_over_many_small_takes() {
        block_on(async {
            let limiter = limiter(100_000);
            let start = Instant::now();
            for _ in 0..60 {
                limiter.take(1000).await;
            }
            let elapsed = start.elapsed();
            // 60 kB at 100 kB/s are 600 ms, less one burst.
            assert!(
                elapsed >= Duration::from_millis(540),
                "too fast: {elapsed:?}"
            );
            assert!(
                elapsed < Duration::from_millis(1500),
                "too slow: {elapsed:?}"
            );
        });
    }

    #[test]
    fn clones_share_the_limit_and_idle_time_is_not_saved_up() {
        let limiter = limiter(1000);
        let start = Instant::now();
        assert_eq!(limiter.book(500, start), start + Duration::from_millis(500));
        assert_eq!(
            limiter.clone().book(500, start),
            start + Duration::from_secs(1)
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.book(100, later), later + Duration::from_millis(100));
    }

    #[test]
    fn pieces_follow_the_rate_within_limits() {
        for (rate, piece) in [(1, 256), (11_500, 575), (1_000_000_000, 16 * 1024)] {
            assert_eq!(limiter(rate).piece_size(), piece, "{rate} bytes/s");
        }
    }
}
