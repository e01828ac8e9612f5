//! Names a function across processes (`TaskId`) and runs it in the other one (`RemoteFn`, `RemoteMethod`).

pub(crate) mod initializer;
pub(crate) mod method;

use std::any::type_name;
use std::hash::{DefaultHasher, Hasher};

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::impl_serde::impl_serde;
use crate::ipc::panic::catch_panic;
use crate::ipc::wire::{self, Arrived, SharedFd};
use crate::sys::entry::{Entry, zst_instance};
use crate::sys::failpoint::{self, Failpoint};

/// A function that can run in another process: a `fn` item, or a closure that captures nothing, of up to
/// eight arguments.
///
/// A message carries the function's offset in the program that both processes run, its arguments, and later
/// its result. So arguments and result must be [`Serialize`] and [`DeserializeOwned`]. What a closure would
/// capture is an argument:
///
/// ```
/// use multiproc::Process;
///
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///     let factor = std::env::args().count();
///     let child = Process::spawn(|x: usize, factor: usize| x * factor, (4, factor))?;
///     assert_eq!(child.join()?, 4 * factor);
///     Ok(())
/// }
/// ```
///
/// # If it does not build
///
/// | the compiler says | remedy |
/// |---|---|
/// | "closure may outlive the current function … use the `move` keyword"; with `move`: "must be a `fn` item, or a closure that captures nothing" (`cargo build` says so, `cargo check` does not) | pass what the closure captures as arguments |
/// | "implementation of `Deserialize` is not general enough" | own the data: `String` for `&str`, `Vec<T>` for `&[T]` |
/// | "`Serialize` is not satisfied" | derive `Serialize` and `Deserialize` for the argument's type |
/// | "cannot run in another process" | likewise for the result's type, with [`TaskError`](crate::TaskError) for errors; at most eight arguments, else a struct; a closure that never returns, as one that ends in `exit(0)`, needs a type: `\|\| -> () { … }` |
///
/// # What a closure may capture
///
/// Nothing; but the compiler can check only the *size* of the captures. So a closure also builds that
/// captures, by `move`, zero-sized values that are `Copy`, `Send`, `Sync` and `'static`, and the child has
/// them although no code there has created them. Such a value is harmless, unless it is a token that proves
/// something done in the parent ("the device is open") and `unsafe` code relies on it. **This is the one
/// exception to the soundness of this crate's safe functions: do not capture such a token.** A `fn` item
/// cannot capture anything.
///
/// No other type can implement the trait: only functions and closures have a name.
///
/// ```compile_fail
/// #[derive(Clone, Copy)]
/// struct Token;
///
/// impl multiproc::RemoteFn<()> for Token {
///     type Output = ();
///     fn call(self, (): ()) {}
/// }
/// ```
///
/// ```compile_fail
/// use std::marker::PhantomData;
///
/// use multiproc::Process;
///
/// multiproc::init();
/// let of_this_thread = PhantomData::<*const ()>; // is neither `Send` nor `Sync`
/// Process::spawn(move || { let _token = of_this_thread; }, ())?.join()?;
/// # Ok::<(), multiproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in another process",
    label = "not a function that can run in another process",
    note = "a closure must capture nothing: pass what it needs as arguments (`move` does not help)",
    note = "arguments and result must implement serde's `Serialize` and `Deserialize`, and own their data: \
            `String`, not `&str`",
    note = "a function that can fail returns `Result<T, multiproc::TaskError>`: `?` converts almost any \
            error into that",
    note = "a function has at most eight arguments: put more into a struct"
)]
pub trait RemoteFn<Args>: sealed::Function<Args> + Copy + Send + Sync + 'static {
    /// The type of the function's result.
    type Output: Serialize + DeserializeOwned;

    /// Calls the function with a tuple of its arguments.
    fn call(self, args: Args) -> Self::Output;
}

pub(crate) mod sealed {
    pub trait Function<Args> {
        /// The function's path in the program.
        #[doc(hidden)]
        fn name() -> &'static str {
            std::any::type_name::<Self>()
        }
    }
}

macro_rules! callable {
    ($($name:ident)*) => {
        impl<F: Fn($($name),*) -> R, R, $($name),*> sealed::Function<($($name,)*)> for F {}

        #[diagnostic::do_not_recommend]
        impl<F, R, $($name),*> RemoteFn<($($name,)*)> for F
        where
            F: Fn($($name),*) -> R + Copy + Send + Sync + 'static,
            R: Serialize + DeserializeOwned,
        {
            type Output = R;

            #[allow(non_snake_case)] // the type's name serves for its value, too
            fn call(self, ($($name,)*): ($($name,)*)) -> R {
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

/// A function's name between processes that run the same build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskId {
    offset: u64,
    signature: u64,
}

impl_serde!(struct TaskId { offset, signature });

impl TaskId {
    /// The name of a function that is run as a `V`.
    pub(crate) fn of<V: Runner<F, Args>, F: RemoteFn<Args>, Args: DeserializeOwned>(
        _function: F,
    ) -> Result<Self> {
        Self::of_entry(V::ENTRY)
    }

    /// The name of a function of the library's own, with arguments and a result for
    /// [`wire::encode_internal`].
    pub(crate) fn of_internal<F: RemoteFn<Args>, Args: DeserializeOwned>(_function: F) -> Result<Self> {
        Self::of_entry(
            const {
                let run = RunOnce { run: run_internal::<F, Args>, name: || "" };
                &Entry::new(type_name::<(F, Args, F::Output)>, run)
            },
        )
    }

    fn of_entry<V: 'static>(entry: &'static Entry<V>) -> Result<Self> {
        Ok(Self { offset: entry.offset()?, signature: hash(entry.signature()) })
    }

    /// What the compiler calls the function, if it was named to be run as a `V`.
    pub(crate) fn function<V: Copy + 'static>(self) -> &'static str {
        let entry = Entry::<V>::at(self.offset).filter(|entry| hash(entry.signature()) == self.signature);
        entry.map_or("unknown", |entry| first_type(entry.signature()))
    }

    /// The name as two numbers.
    pub(crate) fn words(self) -> [u64; 2] {
        [self.offset, self.signature]
    }

    /// The name from [`words`](Self::words), or from whatever else a process has written.
    pub(crate) fn from_words([offset, signature]: [u64; 2]) -> Self {
        Self { offset, signature }
    }

    /// Finds the function in this process, if it was named to be run as a `V`.
    pub(crate) fn find<V: Copy + 'static>(self) -> Result<V> {
        Entry::at(self.offset)
            .filter(|entry| hash(entry.signature()) == self.signature)
            .map(|entry| *entry.runner())
            .ok_or_else(|| Error::decode("a task", "this program has no such function"))
    }
}

/// A way to run a function that another process names, with the code that the compiler generates for `F`.
pub(crate) trait Runner<F, Args>: Copy + 'static {
    const ENTRY: &'static Entry<Self>;
}

/// Runs a function once, with encoded arguments and what arrived beside them; appends the encoded result.
#[derive(Clone, Copy)]
pub(crate) struct RunOnce {
    run: RunEncoded,
    name: fn() -> &'static str,
}

type RunEncoded = fn(&[u8], Arrived, &mut Vec<u8>) -> Result<Vec<SharedFd>>;

impl<F: RemoteFn<Args>, Args: DeserializeOwned> Runner<F, Args> for RunOnce {
    const ENTRY: &'static Entry<Self> =
        &Entry::new(type_name::<(F, Args, F::Output)>, Self::new::<F, Args>());
}

impl RunOnce {
    pub(crate) const fn new<F: RemoteFn<Args>, Args: DeserializeOwned>() -> Self {
        Self { run: run_once::<F, Args>, name: <F as sealed::Function<Args>>::name }
    }

    /// The function's path in the program; empty for one of this library.
    pub(crate) fn name(self) -> &'static str {
        (self.name)()
    }

    /// Runs the function and appends its encoded result; returns the result's descriptors. A panic becomes an
    /// error with its message and location.
    pub(crate) fn run(
        self,
        args: &[u8],
        arrived: impl Into<Arrived>,
        out: &mut Vec<u8>,
    ) -> Result<Vec<SharedFd>> {
        let before = out.len();
        let result = catch_panic(|| (self.run)(args, arrived.into(), out)).and_then(|result| result);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }
}

fn run_internal<F: RemoteFn<Args>, Args: DeserializeOwned>(
    args: &[u8],
    arrived: Arrived,
    out: &mut Vec<u8>,
) -> Result<Vec<SharedFd>> {
    let args: Args = wire::decode_internal(args, arrived, "the arguments")?;
    failpoint::hit(Failpoint::TaskDecoded);
    let result = zst_instance::<F>().call(args);
    failpoint::hit(Failpoint::TaskRan);
    wire::encode_internal_with_descriptors(&result, out, "the result")
}

fn run_once<F: RemoteFn<Args>, Args: DeserializeOwned>(
    args: &[u8],
    arrived: Arrived,
    out: &mut Vec<u8>,
) -> Result<Vec<SharedFd>> {
    let args: Args = wire::decode(args, arrived, "the arguments")?;
    failpoint::hit(Failpoint::TaskDecoded);
    let result = zst_instance::<F>().call(args);
    failpoint::hit(Failpoint::TaskRan);
    wire::encode_with_descriptors(&result, out, "the result")
}

/// The first of the types of a tuple's name.
fn first_type(tuple: &str) -> &str {
    let types = tuple.strip_prefix('(').unwrap_or(tuple);
    let mut depth = 0_usize;
    let is_end = |character| {
        match character {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    };
    types.find(is_end).map_or(types, |end| &types[..end])
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(doctest)]
#[doc = include_str!("does_not_build.md")]
struct DoesNotBuild;

#[cfg(test)]
mod tests;
