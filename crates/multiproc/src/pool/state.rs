//! The state of a pool's workers: what makes it, where it is, and the functions that get it.

use std::any::{Any, type_name};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

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
    note = "a function that can fail returns `Result<T, multiproc::TaskError>`: `?` converts almost any \
            error into that",
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

/// Identifies an inline pool, as long as that holds the strong side; dangling in a worker.
pub(super) type PoolKey = Weak<()>;

struct Entry {
    pool: PoolKey,
    state: Rc<RefCell<dyn Any>>,
    /// Its memory is shared with the zygote until it is written, as dropping it would.
    is_preloaded: bool,
}

thread_local! {
    /// The states of this thread: in a worker one, else one for each inline pool.
    static STATES: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
    /// Whether there was a state. Most workers have none, and the first use of the list costs four page faults.
    static HAD_STATE: Cell<bool> = const { Cell::new(false) };
    /// The pool whose code this thread runs.
    static POOL: RefCell<PoolKey> = const { RefCell::new(Weak::new()) };
}

fn is_in_worker(pool: &PoolKey) -> bool {
    pool.ptr_eq(&Weak::new())
}

/// Calls `f`, which runs items or initializers of an inline pool.
pub(super) fn within<R>(pool: &Arc<()>, f: impl FnOnce() -> R) -> R {
    /// The pool whose code is below in the stack. `None` while the thread ends.
    struct Outer(Option<PoolKey>);

    impl Drop for Outer {
        fn drop(&mut self) {
            self.0.take().and_then(enter);
        }
    }

    let _outer = Outer(enter(Arc::downgrade(pool)));
    f()
}

fn enter(pool: PoolKey) -> Option<PoolKey> {
    POOL.try_with(|current| current.replace(pool)).ok()
}

/// The state that this process's zygote has preloaded, in each of its children.
static PRELOADED: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Keeps a state for the workers that will be forked.
pub(super) fn preload_state<S: Send + 'static>(state: S) {
    if !is_in_worker(&current_pool()) {
        return set_state(state); // there is no zygote
    }
    *lock(&PRELOADED) = Some(Box::new(|| add(state, true)));
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

    #[allow(clippy::panic)] // in a worker, neither can be
    fn call(self, args: Args) -> R {
        let Some(state) = current_state() else { panic!("the pool has no state") };
        let Ok(mut state) = state.try_borrow_mut() else {
            panic!("a task of a pool in inline mode calls that pool, whose state the task has")
        };
        let Some(state) = state.downcast_mut() else { panic!("the pool has another state") };
        zst_instance::<F>().call(state, args)
    }
}

fn current_state() -> Option<Rc<RefCell<dyn Any>>> {
    let find = |states: &RefCell<Vec<Entry>>| {
        let pool = current_pool();
        states.borrow().iter().find(|entry| entry.pool.ptr_eq(&pool)).map(|entry| Rc::clone(&entry.state))
    };
    STATES.try_with(find).ok().flatten()
}

fn current_pool() -> PoolKey {
    POOL.try_with(|pool| PoolKey::clone(&pool.borrow())).unwrap_or_default()
}

/// Gives this worker its state.
pub(super) fn set_state<S: 'static>(state: S) {
    add(state, false);
}

fn add<S: 'static>(state: S, is_preloaded: bool) {
    let (pool, state) = (current_pool(), Rc::new(RefCell::new(state)));
    HAD_STATE.set(true);
    remove(|entry| entry.pool.ptr_eq(&pool));
    let _ = STATES.try_with(|states| states.borrow_mut().push(Entry { pool, state, is_preloaded }));
}

/// Drops this thread's states of inline pools that were dropped in another thread.
pub(super) fn drop_ended_states() {
    remove(|entry| !is_in_worker(&entry.pool) && entry.pool.strong_count() == 0);
}

/// Drops this worker's state, unless it is preloaded.
pub(crate) fn drop_worker_state() {
    remove(|entry| is_in_worker(&entry.pool));
}

/// Drops this thread's state of an inline pool.
pub(super) fn drop_inline_state(pool: &Arc<()>) {
    remove(|entry| ptr::eq(entry.pool.as_ptr(), Arc::as_ptr(pool)));
}

/// Drops states when no list is borrowed: to drop one is the user's code. While the thread ends, its states are
/// dropped anyway.
fn remove(what: impl Fn(&Entry) -> bool) {
    if !HAD_STATE.get() {
        return;
    }
    let extract = |states: &RefCell<Vec<Entry>>| {
        states.borrow_mut().extract_if(.., |entry| what(entry)).collect::<Vec<_>>()
    };
    let removed = STATES.try_with(extract).unwrap_or_default();
    removed.into_iter().filter(|entry| entry.is_preloaded).for_each(|entry| mem::forget(entry.state));
}
