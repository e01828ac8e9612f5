//! **Server handle**: what callers hold; each call goes through its connection.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

use super::ServerBuilder;
use super::call_handle::CallHandle;
use super::connection::Connection;
use super::message::Request;
use super::monitor::Monitor;
use crate::channel::SenderCore;
use crate::error::{Error, Result, TaskError};
use crate::ipc::wire;
use crate::sys::poll::Deadline;
use crate::task::method::{CallMethod, EncodeState, RemoteInit, RemoteMethod};

/// A handle of a process that owns an `S`. Can be cloned, and passed to any process as an argument or through
/// a pipe. The [module](super) says more.
pub struct Server<S> {
    pub(super) connection: Arc<Connection>,
    /// In the process that has spawned the server.
    monitor: Option<Arc<Monitor>>,
    state: PhantomData<fn(S) -> S>,
}

impl Server<()> {
    /// Starts a process that makes a state and then runs calls on it.
    ///
    /// Returns when the process is started; see [`Process::spawn`](crate::Process::spawn). The first calls wait
    /// until the state is made. If `make` panics, that is the error of every call.
    ///
    /// # Errors
    /// Those of [`Process::spawn`](crate::Process::spawn).
    pub fn spawn<F, Args>(make: F, args: Args) -> Result<Server<F::State>>
    where
        F: RemoteInit<Args>,
        Args: Serialize + DeserializeOwned,
    {
        Self::builder().spawn(make, args)
    }

    /// As [`spawn`](Self::spawn), for a function that may fail: its error is that of every call. A server that
    /// [restarts](ServerBuilder::restart) calls the function again, up to its limit.
    ///
    /// ```
    /// use multiproc::{Server, TaskError};
    ///
    /// fn load(path: String) -> Result<Vec<u8>, TaskError> {
    ///     Ok(std::fs::read(path)?)
    /// }
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let file = Server::try_spawn(load, ("/missing".to_owned(),))?;
    ///     let error = file.call(|bytes: &mut Vec<u8>| bytes.len(), ()).unwrap_err();
    ///     assert!(error.to_string().contains("No such file"), "{error}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn).
    pub fn try_spawn<F, Args, S, E>(make: F, args: Args) -> Result<Server<S>>
    where
        F: RemoteInit<Args, State = std::result::Result<S, E>>,
        Args: Serialize + DeserializeOwned,
        S: 'static,
        TaskError: From<E>,
    {
        Self::builder().try_spawn(make, args)
    }

    /// Sets a name, a capacity, restarts or a start method before starting.
    ///
    /// ```
    /// use multiproc::Server;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let server = Server::builder().name("names").capacity(10).spawn(Vec::<String>::new, ())?;
    ///     assert_eq!(server.name(), "names");
    ///     Ok(())
    /// }
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }
}

impl<S: 'static> Server<S> {
    /// Calls a method and returns its result. Blocks until it is there: while the calls before it run, and
    /// while more calls wait than the server's [capacity](ServerBuilder::capacity).
    ///
    /// Arguments and result may hold ends of queues and pipes, and handles of servers.
    ///
    /// # Errors
    /// When the method panics ([`Error::is_panic`]); when an earlier one did ([`Error::is_poisoned`]); when the
    /// server dies ([`Error::is_died`]) or was stopped ([`Error::is_closed`]); when
    /// the arguments or the result cannot be encoded or decoded; and when the kernel refuses memory or a
    /// descriptor. In a method of the same server, which would wait for itself, [`Error::os_error`] is
    /// `EDEADLK`.
    pub fn call<F, Args, R>(&self, method: F, args: Args) -> Result<R>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.connection.check_can_wait()?;
        self.submit(method, args)?.get()
    }

    /// As [`call`](Self::call), but waits at most for `time`. The method may still run after that.
    ///
    /// ```
    /// use multiproc::Server;
    /// use std::time::Duration;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let server = Server::spawn(|| (), ())?;
    ///     let sleep = |(): &mut ()| std::thread::sleep(Duration::from_secs(3600));
    ///     assert!(server.call_timeout(sleep, (), Duration::from_millis(1)).unwrap_err().is_timeout());
    ///     server.kill()?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`call`](Self::call); and [`Error::is_timeout`].
    pub fn call_timeout<F, Args, R>(&self, method: F, args: Args, time: Duration) -> Result<R>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.connection.check_can_wait()?;
        let deadline = Deadline::after(time);
        let result = self.send(method, &args, deadline)?.take(deadline)?;
        result.ok_or_else(|| Error::timeout("get a call's result"))
    }

    /// Has a method called, and returns a handle for its result. Blocks while there is no room for the call, by the
    /// server's [capacity](ServerBuilder::capacity).
    ///
    /// # Errors
    /// When the server has ended, when the arguments cannot be encoded, and when the kernel refuses memory or a
    /// descriptor. In a method of the same server, which would wait for itself, it does not block: without room
    /// [`Error::is_full`] is true.
    pub fn submit<F, Args, R>(&self, method: F, args: Args) -> Result<CallHandle<R>>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.send(method, &args, Deadline::Never)
    }

    /// As [`submit`](Self::submit), but does not wait for room. A process's first call blocks for at most 1 ms
    /// until the server has taken the connection, which [occupies room](ServerBuilder::capacity) before.
    ///
    /// ```
    /// use multiproc::Server;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let list = Server::builder().capacity(1).spawn(Vec::<u32>::new, ())?;
    ///     match list.try_submit(Vec::push, (1,)) {
    ///         Ok(pushed) => pushed.get()?,
    ///         Err(error) if error.is_full() => println!("it has enough to do"),
    ///         Err(error) => return Err(error),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit); and [`Error::is_full`].
    pub fn try_submit<F, Args, R>(&self, method: F, args: Args) -> Result<CallHandle<R>>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.send(method, &args, Deadline::now())
    }

    /// As [`try_submit`](Self::try_submit), but waits for room for at most `time`.
    ///
    /// ```
    /// use multiproc::Server;
    /// use std::time::Duration;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let server = Server::builder().capacity(1).spawn(|| (), ())?;
    ///     let sleep = |(): &mut ()| std::thread::sleep(Duration::from_secs(3600));
    ///     let submit = || server.submit_timeout(sleep, (), Duration::from_millis(10));
    ///     let refused = (0..3).find_map(|_| submit().err()); // one runs, and one waits
    ///     assert!(refused.is_some_and(|error| error.is_full()));
    ///     server.kill()?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`try_submit`](Self::try_submit).
    pub fn submit_timeout<F, Args, R>(&self, method: F, args: Args, time: Duration) -> Result<CallHandle<R>>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.send(method, &args, Deadline::after(time)).map_err(Connection::timeout_as_full)
    }

    /// Lets calls go on after a panic, on the state as it is. It takes its turn among the calls.
    ///
    /// ```
    /// use multiproc::Server;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let list = Server::spawn(Vec::<u32>::new, ())?;
    ///     assert!(list.call(|list: &mut Vec<u32>| list[7], ()).unwrap_err().is_panic());
    ///     assert!(list.call(Vec::clear, ()).unwrap_err().is_poisoned());
    ///     list.clear_poison()?;
    ///     assert_eq!(list.call(|list: &mut Vec<u32>| list.len(), ())?, 0);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the server has ended.
    pub fn clear_poison(&self) -> Result<()> {
        self.connection.check_can_wait()?;
        let call = self.connection.send(Request::ClearPoison, Deadline::Never, |_| Ok(Vec::new()));
        let call = call.map_err(|error| error.with_method("clear_poison"))?;
        CallHandle::new(Arc::clone(&self.connection), call, "clear_poison").get()
    }

    /// Ends the server when it has run the calls before this one, and returns its state. Calls after this one
    /// are errors ([`Error::is_closed`]).
    ///
    /// ```
    /// use multiproc::Server;
    ///
    /// fn main() -> multiproc::Result<()> {
    ///     multiproc::init();
    ///     let list = Server::spawn(Vec::new, ())?;
    ///     list.call(Vec::push, ("item".to_owned(),))?;
    ///     assert_eq!(list.stop()?, ["item"]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`call`](Self::call). The server has ended then, unless it may not have been asked: the kernel has
    /// refused something here, this is a forked copy of a process, or a method of the server itself.
    pub fn stop(self) -> Result<S>
    where
        S: Serialize + DeserializeOwned,
    {
        self.connection.check_can_wait()?;
        let request = Request::Stop(EncodeState::id::<S>()?);
        let call = self.connection.send(request, Deadline::Never, |_| Ok(Vec::new()));
        let call = call.map_err(|error| error.with_method("stop"))?;
        CallHandle::new(Arc::clone(&self.connection), call, "stop").get()
    }

    fn send<F, Args, R>(&self, method: F, args: &Args, deadline: Deadline) -> Result<CallHandle<R>>
    where
        F: RemoteMethod<S, Args, R>,
        Args: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let request = Request::Call(CallMethod::id(method)?);
        let encode = |out: &mut Vec<u8>| wire::encode_with_descriptors(args, out, "the arguments");
        let name = type_name::<F>();
        let call =
            self.connection.send(request, deadline, encode).map_err(|error| error.with_method(name))?;
        Ok(CallHandle::new(Arc::clone(&self.connection), call, name))
    }
}

impl<S> Server<S> {
    pub(super) fn new(name: String, requests: SenderCore, monitor: Option<Arc<Monitor>>) -> Self {
        let connection = Arc::new(Connection::new(name, requests));
        Self { connection, monitor, state: PhantomData }
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.connection.name
    }

    /// The process id of the server, or of its latest process.
    pub fn pid(&self) -> u32 {
        self.connection.page().pid()
    }

    /// Whether calls can still succeed: the server was not stopped, and has not died for good. It may take a
    /// moment until a death is known. Does not block.
    pub fn is_alive(&self) -> bool {
        self.connection.is_alive()
    }

    /// How many calls wait, from all callers.
    pub fn waiting(&self) -> usize {
        self.connection.requests.end().len()
    }

    /// Sends the server SIGKILL, for example because a method does not return. Does not wait. With
    /// [`restart`](ServerBuilder::restart), its state is made again.
    ///
    /// # Errors
    /// In a process that has not spawned the server: only that one knows for sure which process it is.
    pub fn kill(&self) -> Result<()> {
        let monitor = self
            .monitor
            .as_ref()
            .ok_or_else(|| Error::invalid("only the process that has spawned a server can kill it"))?;
        self.connection.check_not_forked()?;
        monitor.child().kill();
        Ok(())
    }
}

/// Shares the connection: calls of all clones in a process go to the server in the order in which they are
/// made.
impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { connection: Arc::clone(&self.connection), monitor: self.monitor.clone(), state: PhantomData }
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("name", &self.name()).field("pid", &self.pid()).finish_non_exhaustive()
    }
}
