//! When the broker has answered: whether it was silent, or is only far away.

use std::time::{Duration, Instant};

pub(super) struct Contact {
    /// When it has answered last.
    last: Instant,
    /// How long it took for each of its last answers.
    round_trips: [Duration; REMEMBERED],
}

/// The fastest of these answers says how far away the broker is. Others may be slow for a while, behind many results or
/// on a busy machine: then what hosts say of themselves is late, too. Once the network has become slow, all of them are
/// slow after this number, and hosts are forgiven no longer.
const REMEMBERED: usize = 32;

impl Contact {
    /// Of a broker that has just answered, after that time.
    pub(super) fn new(now: Instant, round_trip: Duration) -> Self {
        Self { last: now, round_trips: [round_trip; REMEMBERED] }
    }

    /// The time since its last answer.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    /// Notes an answer, to a question that was `asked` then. Returns how long no host could be heard, if that was for
    /// about half a lease longer than the way to the broker and back takes.
    pub(super) fn note(&mut self, asked: Instant, now: Instant, lease: Duration) -> Option<Duration> {
        let silence = self.silence(now);
        self.round_trips.rotate_right(1);
        self.round_trips[0] = now.saturating_duration_since(asked);
        self.last = now;
        let usual = self.round_trips.into_iter().min().unwrap_or_default();
        (silence > usual.saturating_add(lease / 2)).then_some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    /// Notes answers that took these milliseconds, after a first one; returns which of them were after a silence.
    fn silences(first: u64, round_trips: &[u64]) -> Vec<bool> {
        let mut now = Instant::now();
        let mut contact = Contact::new(now, Duration::from_millis(first));
        let note = |&round_trip: &u64| {
            let asked = now + LEASE / 4;
            now = asked + Duration::from_millis(round_trip);
            contact.note(asked, now, LEASE).is_some()
        };
        round_trips.iter().map(note).collect()
    }

    #[test]
    fn a_broker_that_is_far_away_is_not_silent() {
        assert_eq!(silences(1800, &[900; 9]), [false; 9]);
        // It takes a while to tell that from a silence.
        let slower = silences(1, &[900; REMEMBERED + 9]);
        assert_eq!(slower[..REMEMBERED - 1], [true; REMEMBERED - 1]);
        assert_eq!(slower[REMEMBERED - 1..], [false; 10]);
    }

    #[test]
    fn a_broker_that_was_stopped_was_silent() {
        assert_eq!(silences(1, &[900, 1, 1500, 1500, 1]), [true, false, true, true, false]);
        assert_eq!(silences(600, &[600, 1600, 600]), [false, true, false]);
    }
}
