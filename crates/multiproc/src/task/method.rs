//! `RemoteMethod`: a function on a state that lives in another process; `RemoteInit`: the one that makes it.

use std::any::{Any, type_name};
use std::os::fd::OwnedFd;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::TaskId;
use crate::error::{Cause, Error, Result, TaskError};
use crate::ipc::panic::{self, catch_panic};
use crate::ipc::wire::{self, SharedFd};
use crate::sys::entry::{Entry, zst_instance};
use crate::sys::failpoint::{self, Failpoint};

/// A function on the state of a [`Server`](crate::server::Server): a `fn(&mut S, A, …) -> R`, or such a
/// closure that captures nothing, with up to eight arguments beside the state.
///
/// As a [`RemoteFn`](crate::RemoteFn) it crosses by its place in the program, and its arguments and its result
/// must be [`Serialize`] and [`DeserializeOwned`]. The state stays where it is, and need not be.
///
/// A method that takes `&self` is called by a closure: `|state: &mut Counter| state.total()`. So is one that
/// returns a reference: `|state: &mut Map| state.get("key").cloned()`.
///
/// ```compile_fail
/// use multiproc::server::Server;
///
/// multiproc::init();
/// let names = Server::spawn(Vec::<String>::new, ())?;
/// names.call(|numbers: &mut Vec<u32>| numbers.len(), ())?; // the state is another type
/// # Ok::<(), multiproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called on a state `{S}` in another process",
    label = "not a `fn(&mut {S}, …)` that can be called in another process",
    note = "its first parameter is `&mut {S}`; call a method with `&self` by a closure: `|state: &mut _| \
            state.method()`",
    note = "a closure must capture nothing: pass what it needs as arguments (`move` does not help)",
    note = "arguments and result must implement serde's `Serialize` and `Deserialize`, and own their data: \
            `String`, not `&str`",
    note = "a method has at most eight arguments: put more into a struct"
)]
pub trait RemoteMethod<S, Args, Output>:
    sealed::Method<S, Args, Output> + Copy + Send + Sync + 'static
{
    /// Calls the method with a tuple of its arguments.
    fn call(self, state: &mut S, args: Args) -> Output;
}

/// A function that makes a state where the state is to live: a `fn(A, …) -> S`, or such a closure that
/// captures nothing, with up to eight arguments.
///
/// It is a [`RemoteFn`](crate::RemoteFn) whose result does not travel, and so may be anything.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot make a state in another process",
    label = "not a function that can make a state in another process",
    note = "a closure must capture nothing: pass what it needs as arguments (`move` does not help)",
    note = "a function has at most eight arguments: put more into a struct"
)]
pub trait RemoteInit<Args>: sealed::Init<Args> + Copy + Send + Sync + 'static {
    /// The state.
    type State: 'static;

    /// Calls the function with a tuple of its arguments.
    fn make(self, args: Args) -> Self::State;
}

pub(crate) mod sealed {
    pub trait Method<S, Args, Output> {}
    pub trait Init<Args> {}
}

macro_rules! callable {
    ($($name:ident)*) => {
        impl<F: Fn(&mut S, $($name),*) -> R, S, R, $($name),*> sealed::Method<S, ($($name,)*), R> for F {}

        #[diagnostic::do_not_recommend]
        impl<F, S, R, $($name),*> RemoteMethod<S, ($($name,)*), R> for F
        where
            F: Fn(&mut S, $($name),*) -> R + Copy + Send + Sync + 'static,
        {
            #[allow(non_snake_case)] // the type's name serves for its value, too
            fn call(self, state: &mut S, ($($name,)*): ($($name,)*)) -> R {
                self(state, $($name),*)
            }
        }

        impl<F: Fn($($name),*) -> S, S, $($name),*> sealed::Init<($($name,)*)> for F {}

        #[diagnostic::do_not_recommend]
        impl<F, S: 'static, $($name),*> RemoteInit<($($name,)*)> for F
        where
            F: Fn($($name),*) -> S + Copy + Send + Sync + 'static,
        {
            type State = S;

            #[allow(non_snake_case)]
            fn make(self, ($($name,)*): ($($name,)*)) -> S {
                self($($name),*)
            }
        }
    };
}

callable!();
callable!(A);
callable!(A B);
callable!(A B C);
callable!(A B C D);
callable!(A B C D E);
callable!(A B C D E G);
callable!(A B C D E G H);
callable!(A B C D E G H I);

/// Makes a state from encoded arguments and their descriptors. A panic is an error.
#[derive(Clone, Copy)]
pub(crate) struct MakeState(Make);

type Make = fn(&[u8], Vec<OwnedFd>) -> Result<Box<dyn Any>>;

/// Calls a method; see [`CallMethod::run`].
#[derive(Clone, Copy)]
pub(crate) struct CallMethod {
    run: Run,
    name: fn() -> &'static str,
}

type Run = fn(&mut dyn Any, &[u8], Vec<OwnedFd>, &mut Vec<u8>) -> Result<Vec<SharedFd>>;

/// Encodes a state; returns its descriptors.
#[derive(Clone, Copy)]
pub(crate) struct EncodeState(fn(&dyn Any, &mut Vec<u8>) -> Result<Vec<SharedFd>>);

impl MakeState {
    pub(crate) fn id<F: RemoteInit<Args>, Args: DeserializeOwned>(_function: F) -> Result<TaskId> {
        let entry = const { &Entry::new(type_name::<(F, Args, F::State)>, Self(make::<F, Args>)) };
        TaskId::of_entry(entry)
    }

    /// As [`id`](Self::id), for a function that may fail.
    pub(crate) fn id_of_fallible<F, Args, S, E>(_function: F) -> Result<TaskId>
    where
        F: RemoteInit<Args, State = Result<S, E>>,
        Args: DeserializeOwned,
        S: 'static,
        TaskError: From<E>,
    {
        let entry = const { &Entry::new(type_name::<(F, Args, S, E)>, Self(make_fallibly::<F, Args, S, E>)) };
        TaskId::of_entry(entry)
    }

    pub(crate) fn run(self, args: &[u8], descriptors: Vec<OwnedFd>) -> Result<Box<dyn Any>> {
        (self.0)(args, descriptors)
    }
}

impl CallMethod {
    pub(crate) fn id<F, S, Args, R>(_method: F) -> Result<TaskId>
    where
        F: RemoteMethod<S, Args, R>,
        S: 'static,
        Args: DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        TaskId::of_entry(
            const {
                let run = Self { run: call::<F, S, Args, R>, name: type_name::<F> };
                &Entry::new(type_name::<(F, S, Args, R)>, run)
            },
        )
    }

    /// Calls the method with encoded arguments and their descriptors; appends the encoded result, and returns
    /// the descriptors of that. The error [`is_panic`](Error::is_panic) only if the method itself panicked.
    pub(crate) fn run(
        self,
        state: &mut dyn Any,
        args: &[u8],
        descriptors: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<Vec<SharedFd>> {
        (self.run)(state, args, descriptors, out)
    }

    /// The method's path in the program.
    pub(crate) fn name(self) -> &'static str {
        (self.name)()
    }
}

impl EncodeState {
    pub(crate) fn id<S: Serialize + DeserializeOwned + 'static>() -> Result<TaskId> {
        TaskId::of_entry(const { &Entry::new(type_name::<S>, Self(encode_state::<S>)) })
    }

    pub(crate) fn run(self, state: &dyn Any, out: &mut Vec<u8>) -> Result<Vec<SharedFd>> {
        (self.0)(state, out)
    }
}

fn make<F: RemoteInit<Args>, Args: DeserializeOwned>(
    args: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<Box<dyn Any>> {
    let args: Args = panic::decode(args, descriptors, "the arguments")?;
    catch_panic(|| Box::new(zst_instance::<F>().make(args)) as Box<dyn Any>)
}

fn make_fallibly<F, Args, S, E>(args: &[u8], descriptors: Vec<OwnedFd>) -> Result<Box<dyn Any>>
where
    F: RemoteInit<Args, State = Result<S, E>>,
    Args: DeserializeOwned,
    S: 'static,
    TaskError: From<E>,
{
    let args: Args = panic::decode(args, descriptors, "the arguments")?;
    let made = catch_panic(|| zst_instance::<F>().make(args).map_err(TaskError::from))?;
    Ok(Box::new(made?))
}

fn call<F, S, Args, R>(
    state: &mut dyn Any,
    args: &[u8],
    descriptors: Vec<OwnedFd>,
    out: &mut Vec<u8>,
) -> Result<Vec<SharedFd>>
where
    F: RemoteMethod<S, Args, R>,
    S: 'static,
    Args: DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let state = state.downcast_mut::<S>().ok_or_else(other_state)?;
    let args: Args = panic::decode(args, descriptors, "the arguments")?;
    failpoint::hit(Failpoint::TaskDecoded);
    let result = catch_panic(|| zst_instance::<F>().call(state, args))?;
    failpoint::hit(Failpoint::TaskRan);
    encode(out, "the result", |out| {
        let result = result; // a panic while it is dropped is caught, too
        wire::encode_with_descriptors(&result, out, "the result")
    })
}

fn encode_state<S: Serialize + DeserializeOwned + 'static>(
    state: &dyn Any,
    out: &mut Vec<u8>,
) -> Result<Vec<SharedFd>> {
    let state = state.downcast_ref::<S>().ok_or_else(other_state)?;
    encode(out, "the state", |out| wire::encode_with_descriptors(state, out, "the state"))
}

/// Appends to `out`, and undoes that on an error. A panic of a user's `Serialize` is an encoding error.
fn encode(
    out: &mut Vec<u8>,
    what: &str,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<SharedFd>>,
) -> Result<Vec<SharedFd>> {
    let before = out.len();
    let encoded = catch_panic(|| encode(out)).unwrap_or_else(|panic| {
        Err(Error::new(Cause::Encode {
            what: what.to_owned(),
            why: format!("its type has panicked: {panic}"),
        }))
    });
    if encoded.is_err() {
        out.truncate(before);
    }
    encoded
}

fn other_state() -> Error {
    Error::decode("a call", "the server's state has another type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counter(u64);

    impl Counter {
        fn add(&mut self, number: u64) -> u64 {
            assert!(number != 13, "an unlucky number");
            self.0 += number;
            self.0
        }
    }

    fn run(state: &mut dyn Any, args: u64) -> Result<u64> {
        let method = CallMethod::id::<_, Counter, (u64,), u64>(Counter::add)?.find::<CallMethod>()?;
        assert!(method.name().ends_with("Counter::add"), "{}", method.name());
        let (mut encoded, mut out) = (Vec::new(), Vec::new());
        wire::encode(&(args,), &mut encoded, "the arguments")?;
        method.run(state, &encoded, Vec::new(), &mut out)?;
        wire::decode(&out, Vec::new(), "the result")
    }

    #[test]
    fn a_method_is_found_by_its_name_and_changes_the_state() {
        let make = MakeState::id(Counter::default).unwrap().find::<MakeState>().unwrap();
        let mut encoded = Vec::new();
        wire::encode(&(), &mut encoded, "the arguments").unwrap();
        let mut state = make.run(&encoded, Vec::new()).unwrap();
        assert_eq!(run(&mut *state, 3).unwrap(), 3);
        assert!(run(&mut *state, 13).unwrap_err().is_panic());
        assert_eq!(run(&mut *state, 4).unwrap(), 7);
        assert!(run(&mut 7_u32, 4).unwrap_err().is_codec(), "another state");
    }
}
