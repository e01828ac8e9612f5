//! What a worker runs before any task. Each is a function of its own type, which the pool names like a task.

use std::marker::PhantomData;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::state::{preload_state, set_state};
use crate::error::{Error, TaskError};
use crate::ipc::wire;
use crate::sys::entry::zst_instance;
use crate::task::initializer::Initializer;
use crate::task::method::RemoteInit;
use crate::task::{RemoteFn, RunOnce, TaskId, sealed};

/// What a worker needs to run a function first.
pub(super) fn encode_initializer<F, Args>(function: F, args: &Args) -> Result<Initializer, Error>
where
    F: RemoteFn<Args, Output = Result<(), Error>>,
    Args: Serialize + DeserializeOwned,
{
    let task = TaskId::of::<RunOnce, _, _>(function)?;
    let mut bytes = Vec::new();
    let descriptors = wire::encode_with_descriptors(args, &mut bytes, "the arguments")?;
    Ok(Initializer { task, args: bytes, descriptors, makes_state: false })
}

/// Calls a function for its effect.
pub(super) struct Run<F>(PhantomData<fn() -> F>);

/// Calls a function for its effect, which may fail.
pub(super) struct TryRun<F>(PhantomData<fn() -> F>);

/// Makes the state.
pub(super) struct Make<F>(PhantomData<fn() -> F>);

/// Makes the state, or fails.
pub(super) struct TryMake<F>(PhantomData<fn() -> F>);

/// Makes the state for workers that will be forked.
pub(super) struct Preload<F>(PhantomData<fn() -> F>);

/// Makes the state for workers that will be forked, or fails.
pub(super) struct TryPreload<F>(PhantomData<fn() -> F>);

macro_rules! functions {
    ($($name:ident)*) => {
        $(
            impl<F> $name<F> {
                pub(super) fn new(_function: F) -> Self {
                    Self(PhantomData)
                }
            }

            impl<F> Clone for $name<F> {
                fn clone(&self) -> Self {
                    *self
                }
            }

            impl<F> Copy for $name<F> {}

            impl<F, Args> sealed::Function<Args> for $name<F> {}
        )*
    };
}

functions!(Run TryRun Make TryMake Preload TryPreload);

impl<F: RemoteFn<Args>, Args> RemoteFn<Args> for Run<F> {
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        zst_instance::<F>().call(args);
        Ok(())
    }
}

impl<F, Args, E> RemoteFn<Args> for TryRun<F>
where
    F: RemoteInit<Args, State = Result<(), E>>,
    TaskError: From<E>,
{
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        zst_instance::<F>().make(args).map_err(TaskError::from)?;
        Ok(())
    }
}

impl<F: RemoteInit<Args>, Args> RemoteFn<Args> for Make<F> {
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        set_state(zst_instance::<F>().make(args));
        Ok(())
    }
}

impl<F, Args, S, E> RemoteFn<Args> for TryMake<F>
where
    F: RemoteInit<Args, State = Result<S, E>>,
    S: 'static,
    TaskError: From<E>,
{
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        let state = zst_instance::<F>().make(args).map_err(TaskError::from)?;
        set_state(state);
        Ok(())
    }
}

impl<F, Args> RemoteFn<Args> for Preload<F>
where
    F: RemoteInit<Args>,
    F::State: Send,
{
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        preload_state(zst_instance::<F>().make(args));
        Ok(())
    }
}

impl<F, Args, S, E> RemoteFn<Args> for TryPreload<F>
where
    F: RemoteInit<Args, State = Result<S, E>>,
    S: Send + 'static,
    TaskError: From<E>,
{
    type Output = Result<(), Error>;

    fn call(self, args: Args) -> Result<(), Error> {
        preload_state(zst_instance::<F>().make(args).map_err(TaskError::from)?);
        Ok(())
    }
}
