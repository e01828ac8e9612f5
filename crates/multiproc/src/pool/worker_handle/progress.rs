//! What the pool concludes from a worker's results: whether the worker takes its items on.

#[derive(Default)]
pub(super) struct Progress {
    pub(super) pace: Pace,
    /// It has claimed nothing for a while, and no results have arrived since.
    pub(super) may_be_stopped: bool,
    /// All items in flight were claimed at the last check.
    pub(super) all_claimed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// There were results, or first items, since the last check.
    #[default]
    Active,
    /// There were none.
    Quiet,
    /// Its unclaimed items were revoked. It gets nothing more until it shows a result, or has been empty for a
    /// while.
    Paused,
}

impl Progress {
    pub(super) fn is_paused(&self) -> bool {
        self.pace == Pace::Paused
    }

    pub(super) fn on_results(&mut self) {
        (self.pace, self.may_be_stopped) = (Pace::Active, false);
    }

    /// Items were submitted to a worker that was idle or not.
    pub(super) fn on_submit(&mut self, was_idle: bool) {
        if was_idle {
            self.pace = Pace::Active;
        }
        self.all_claimed = false;
    }

    /// Whether it was quiet since the last check. It `may_stay_paused` if it still has items.
    pub(super) fn check(&mut self, may_stay_paused: bool) -> bool {
        let was_quiet = self.pace != Pace::Active;
        if !(self.is_paused() && may_stay_paused) {
            self.pace = Pace::Quiet;
        }
        was_quiet
    }
}
