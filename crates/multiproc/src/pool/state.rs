//! The state of a pool's workers: what makes it, where it is, and the functions that get it.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Mutex;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use crate::spawn::supervisor::lock;
use crate::sys::entry::zst_instance;
use crate::task::method::RemoteMethod;
use crate::task::{RemoteFn, sealed};

/// Marks a [`Pool`](super::Pool) whose workers have no state: it runs any [`RemoteFn`].
#[derive(Clone, Copy, Debug)]
pub struct NoState;

/// Marks a [`Pool`](super::Pool) in which each worker has an `S`: it runs functions of a `&mut S` and
/// arguments.
#[derive(Debug)]
pub struct State<S>(PhantomData<fn(S)>);

/// A function that a pool of kind `M` can run: a [`RemoteFn`] with [`NoState`], a
/// [`RemoteMethod`] with [`State`].
///
/// ```compile_fail
/// use multiproc::Pool;
///
/// multiproc::init();
/// let pool = Pool::builder().workers(2).state(Vec::<String>::new, ()).build()?;
/// pool.apply(|numbers: &mut Vec<u32>| numbers.len(), ())?; // another state
/// # Ok::<(), multiproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in another process",
    label = "not a function that can run in a worker of this pool",
    note = "a closure must capture nothing: pass what it needs as arguments (`move` does not help)",
    note = "in a pool with a state, the first parameter is a `&mut` of that state",
    note = "arguments and result must implement serde's `Serialize` and `Deserialize`, and own their data: \
            `String`, not `&str`",
    note = "a function that can fail returns `Result<T, multiproc::TaskError>`: `?` converts any error \
            into that",
    note = "a function has at most eight arguments: put more into a struct"
)]
pub trait PoolFn<M, Args, R>: sealed_pool::Function<M, Args, R> + Copy {
    #[doc(hidden)]
    type Remote: RemoteFn<Args, Output = R>;

    #[doc(hidden)]
    fn remote(self) -> Self::Remote;
}

mod sealed_pool {
    pub trait Function<M, Args, R> {}
}

impl<F: RemoteFn<Args, Output = R>, Args, R> sealed_pool::Function<NoState, Args, R> for F {}

#[diagnostic::do_not_recommend]
impl<F: RemoteFn<Args, Output = R>, Args, R> PoolFn<NoState, Args, R> for F {
    type Remote = F;

    fn remote(self) -> F {
        self
    }
}

impl<F: RemoteMethod<S, Args, R>, S, Args, R> sealed_pool::Function<State<S>, Args, R> for F {}

#[diagnostic::do_not_recommend]
impl<F, S, Args, R> PoolFn<State<S>, Args, R> for F
where
    F: RemoteMethod<S, Args, R>,
    S: 'static,
    Args: 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    type Remote = OnState<F, S, R>;

    fn remote(self) -> OnState<F, S, R> {
        OnState(PhantomData)
    }
}

thread_local! {
    /// Of the thread that runs a worker's tasks: one. Inline pools of one thread may have several, of
    /// different types.
    static STATES: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// The state that this process's zygote has preloaded, in each of its children.
static PRELOADED: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Keeps a state for the workers that will be forked.
pub(super) fn preload_state<S: Send + 'static>(state: S) {
    *lock(&PRELOADED) = Some(Box::new(|| set_state(state)));
}

/// Gives this worker the preloaded state, if there is one.
pub(crate) fn take_preloaded_state() {
    let preloaded = lock(&PRELOADED).take();
    if let Some(set_state) = preloaded {
        set_state();
    }
}

/// Calls a method on the worker's state.
pub struct OnState<F, S, R>(PhantomData<fn(F, S) -> R>);

impl<F, S, R> Clone for OnState<F, S, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, S, R> Copy for OnState<F, S, R> {}

impl<F, S, R, Args> sealed::Function<Args> for OnState<F, S, R> {
    fn name() -> &'static str {
        type_name::<F>()
    }
}

impl<F, S, R, Args> RemoteFn<Args> for OnState<F, S, R>
where
    F: RemoteMethod<S, Args, R>,
    S: 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    type Output = R;

    #[allow(clippy::panic)] // a worker has; an inline pool may be used by another thread
    fn call(self, args: Args) -> R {
        STATES.with_borrow_mut(|states| {
            let state = states.iter_mut().find_map(|state| state.downcast_mut::<S>());
            let Some(state) = state else { panic!("this thread has not made the pool's state") };
            zst_instance::<F>().call(state, args)
        })
    }
}

/// Gives this worker its state.
pub(super) fn set_state<S: 'static>(state: S) {
    STATES.with_borrow_mut(|states| {
        states.retain(|other| !other.is::<S>());
        states.push(Box::new(state));
    });
}
