//! Panics of the user's functions and types, as errors with their message and location.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};

use serde_core::de::DeserializeOwned;

use crate::codec::raw;
use crate::error::{Cause, Error, Result};
use crate::ipc::wire;

/// Calls `f` and turns a panic into an error. The panic hook still runs, as it does in a thread.
pub(crate) fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(panic_error)
}

/// Apart from [`catch_panic`], so that it is compiled once and not for each task.
fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let message = panic_message(&*payload);
    // The last recorded panic may be one that the function has caught, and this one may have bypassed the hook.
    let last = LAST_PANIC.try_with(RefCell::take).ok().flatten();
    let last = last.filter(|last| last.message == message);
    let (location, backtrace) = last.map(|last| (last.location, last.backtrace)).unzip();
    let backtrace = backtrace.filter(|backtrace| backtrace.status() == BacktraceStatus::Captured);
    let backtrace = backtrace.map(|backtrace| backtrace.to_string());
    std::mem::forget(payload); // dropping a user's payload may panic once more
    Error::new(Cause::Panic { message, location, backtrace })
}

/// Calls `f`, whose panic is only told by the panic hook.
pub(crate) fn ignore_panic(f: impl FnOnce()) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(f)) {
        std::mem::forget(payload); // dropping a user's payload may panic once more
    }
}

/// As [`wire::decode`], but a user's `Deserialize` that panics is an error of this value alone.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>, what: &str) -> Result<T> {
    if raw::is_raw::<T>() {
        return wire::decode(bytes, descriptors, what);
    }
    let decode = AssertUnwindSafe(|| wire::decode(bytes, descriptors, what));
    panic::catch_unwind(decode).unwrap_or_else(|payload| {
        let why = format!("its type has panicked: {}", panic_message(&*payload));
        std::mem::forget(payload);
        Err(Error::decode(what, why))
    })
}

/// Makes the panic hook record the location of each panic, in addition to what the current hook does.
pub(crate) fn install_panic_hook() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let record = info.location().map(|place| PanicRecord {
            location: format!("{}:{}:{}", place.file(), place.line(), place.column()),
            message: panic_message(info.payload()),
            backtrace: Backtrace::capture(),
        });
        let _ = LAST_PANIC.try_with(|last| last.replace(record));
        hook(info);
    }));
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// A panic as the hook saw it.
struct PanicRecord {
    location: String,
    message: String,
    backtrace: Backtrace,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<PanicRecord>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_of_a_panic_is_its_own() {
        install_panic_hook();
        let has_location = |panics: fn()| {
            let error = catch_panic(panics).unwrap_err().to_string();
            error.contains(file!())
        };
        assert!(has_location(|| panic!("with a location")));
        let _ = panic::catch_unwind(|| panic!("caught by the function itself"));
        assert!(!has_location(|| panic::resume_unwind(Box::new("without a location"))));
    }
}
