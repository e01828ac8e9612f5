//! The messages of a child over its start socket: that it is ready, and the outcome of its task.

use crate::error::{Error, Origin, Result};
use crate::ipc::wire;

/// The first message of a process that was executed: it has reached `init`.
pub(crate) const READY: &[u8] = b"ready";

/// The second message of a zygote that runs functions first: they have returned.
pub(crate) const PRELOADED: &[u8] = b"preloaded";

/// The first byte of an outcome.
const RETURNED: u8 = 0;
const FAILED: u8 = 1;

/// The beginning of an outcome, to which the task's result is appended.
pub(crate) fn returned() -> Vec<u8> {
    vec![RETURNED]
}

/// The outcome of a task, or of a start, that has failed.
pub(crate) fn failed(error: &Error) -> Result<Vec<u8>> {
    let mut outcome = vec![FAILED];
    wire::encode_internal(error, &mut outcome, "an error")?;
    Ok(outcome)
}

/// The encoded result, or the task's error. `origin` names the child in it.
pub(crate) fn decode(mut outcome: Vec<u8>, origin: &dyn Fn() -> Origin) -> Result<Vec<u8>> {
    match outcome.split_first() {
        Some((&RETURNED, _)) => {
            outcome.remove(0);
            Ok(outcome)
        }
        Some((_, error)) => {
            let error: Error = wire::decode_internal(error, Vec::new(), "a child's error")?;
            Err(error.or_with_origin(origin))
        }
        None => Err(Error::decode("a child's outcome", "it is empty")),
    }
}

/// The error by which a zygote says why it cannot start.
pub(crate) fn decode_failure(outcome: &[u8]) -> Error {
    let error = match outcome.split_first() {
        Some((&FAILED, error)) => wire::decode_internal(error, Vec::new(), "a fork server's error"),
        _ => Err(Error::decode("a fork server's reply", "invalid length")),
    };
    error.unwrap_or_else(|error| error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases};

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_an_outcome_or_an_error(bytes in any_bytes(200)) {
            let origin = || Origin::Worker { pid: 7 };
            prop_assert!(!decode_failure(&bytes).to_string().is_empty());
            match decode(bytes.clone(), &origin) {
                Ok(result) => prop_assert_eq!((RETURNED, &result[..]), (bytes[0], &bytes[1..])),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
