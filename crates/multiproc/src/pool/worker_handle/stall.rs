//! Whether a worker has stalled: it begins no items, by the results that it shows.

#[derive(Default)]
pub(super) struct StallDetector {
    pub(super) stall: Stall,
    /// It has claimed nothing for a while, and no results have arrived since.
    pub(super) may_be_stopped: bool,
    /// All items in flight were claimed at the last check.
    pub(super) all_claimed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stall {
    /// There were results, or first items, since the last check.
    #[default]
    None,
    /// There were none.
    Suspected,
    /// Its unclaimed items were revoked. It gets nothing more until it shows a result, or has been empty for
    /// a while.
    Paused,
}

impl StallDetector {
    pub(super) fn is_paused(&self) -> bool {
        self.stall == Stall::Paused
    }

    pub(super) fn on_results(&mut self) {
        (self.stall, self.may_be_stopped) = (Stall::None, false);
    }

    /// What it was given while it started may have been revoked.
    pub(super) fn on_ready(&mut self) {
        self.stall = Stall::None;
    }

    /// Items were submitted to a worker that was idle or not.
    pub(super) fn on_submit(&mut self, was_idle: bool) {
        if was_idle {
            self.stall = Stall::None;
        }
        self.all_claimed = false;
    }

    /// Whether it has shown no results since the last check. It `may_stay_paused` if it still has items.
    pub(super) fn check(&mut self, may_stay_paused: bool) -> bool {
        let was_stalled = self.stall != Stall::None;
        if !(self.is_paused() && may_stay_paused) {
            self.stall = Stall::Suspected;
        }
        was_stalled
    }
}
