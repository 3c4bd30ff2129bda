//! The count of bytes that a transport writes to and reads from its socket.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The traffic over a transport's sockets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload written to the socket, in bytes: look-ups, handshake, messages and ticks, without
    /// the headers of TCP and IP.
    pub sent_bytes: u64,
    /// Payload read from the socket, in bytes.
    pub received_bytes: u64,
    /// The number of times that something came in after something had gone out. Ticks do not count.
    /// A TCP connect does not count either, because it carries no payload. While messages stream
    /// both ways, this is more than the number of latencies that the host waited for.
    pub round_trips: u64,
}

/// The running totals, shared by the tasks of one transport.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    round_trips: AtomicU64,
    awaiting: AtomicBool,
}

impl Meter {
    /// Counts bytes of messages that went out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_tick(bytes);
        self.awaiting.store(true, Ordering::Relaxed);
    }

    /// Counts bytes that went out and need no answer.
    pub(crate) fn sent_tick(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that came in.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records that a message, not a tick, came in.
    pub(crate) fn message_arrived(&self) {
        if self.awaiting.swap(false, Ordering::Relaxed) {
            self.round_trips.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_a_message_in_after_a_message_out() {
        let meter = Meter::default();
        meter.message_arrived();
        assert_eq!(meter.counters().round_trips, 0, "unasked");
        meter.sent(10);
        meter.sent(10);
        meter.received(7);
        meter.message_arrived();
        meter.message_arrived();
        assert_eq!(
            meter.counters(),
            Counters {
                sent_bytes: 20,
                received_bytes: 7,
                round_trips: 1
            }
        );
        meter.sent_tick(4);
        meter.message_arrived();
        assert_eq!(
            meter.counters(),
            Counters {
                sent_bytes: 24,
                received_bytes: 7,
                round_trips: 1
            }
        );
    }
}
