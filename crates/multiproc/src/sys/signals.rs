//! Signals: internal threads take none, and a child leaves SIGINT to the program's first process.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, signal};

/// Calls `start`, which starts an internal thread, with all signals blocked. The thread inherits that, so it
/// never takes a signal that the program waits for with `sigwait`.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = start();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    started
}

/// Has SIGINT do nothing, unless the program ignores or handles it already. A terminal sends it to all
/// processes of a program; the first one decides what it means, and may need its children to finish its work.
///
/// A handler that does nothing, since an ignored signal stays ignored in programs that this process executes.
pub(super) fn ignore_sigint() -> nix::Result<()> {
    extern "C" fn do_nothing(_signal: i32) {}
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is allowed at any instruction.
    let before = unsafe { sigaction(Signal::SIGINT, &action) }?;
    if !matches!(before.handler(), SigHandler::SigDfl) {
        // SAFETY: restores what the program has set up.
        unsafe { sigaction(Signal::SIGINT, &before) }?;
    }
    Ok(())
}

/// Has a write to a broken pipe be an error, as the standard library does before `main`.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: an ignored signal calls no code.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}
