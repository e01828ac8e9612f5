//! The stream of a queue's receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use multiproc::queue::{self, Receiver, Sender};
use multiproc::{Connection, Process, Result, pipe};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};
use smol::stream::StreamExt;

use crate::{Outcome, is_pending, rest, under_every_executor};

fn send_all(sender: Sender<u64>) -> bool {
    (0..1000).all(|number| sender.send(number).is_ok())
}

fn send_then_die(sender: Sender<u64>) {
    let _ = sender.send(7);
    std::process::abort();
}

#[test]
fn items_are_awaited_under_every_executor() -> Outcome {
    tests::watched("items_are_awaited_under_every_executor", || {
        let sums = under_every_executor(|| async {
            let (sender, receiver) = queue::bounded(10)?;
            let child = Process::spawn(send_all, (sender,))?;
            let items = rest(receiver.stream()).await?;
            assert!(child.await?);
            Ok::<_, multiproc::Error>(items)
        });
        for items in sums {
            assert_eq!(items?, (0..1000).collect::<Vec<_>>());
        }
        Ok(())
    })
}

#[test]
fn a_stream_that_waits_ends_when_the_last_sender_is_killed() -> Outcome {
    tests::watched("a_stream_that_waits_ends_when_the_last_sender_is_killed", || {
        let (sender, receiver) = queue::bounded(10)?;
        let child = Process::spawn(send_then_die, (sender,))?;
        assert_eq!(smol::block_on(rest(receiver.stream()))?, [7]);
        assert_eq!(child.join().unwrap_err().signal(), Some(6));
        Ok(())
    })
}

/// Runs in a child, since the limit is the process's. Returns the error that the stream gives, and whether it has
/// ended after it.
fn poll_without_descriptors(receiver: Receiver<u64>) -> (Option<i32>, bool) {
    let mut stream = receiver.stream();
    let mut next = || match stream.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(item) => item,
        Poll::Pending => panic!("it cannot wait"),
    };
    let (limit, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let first = next();
    let has_ended = next().is_none();
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    (first.and_then(Result::err).and_then(|error| error.os_error()), has_ended)
}

/// An adapter that skips errors would receive such an error without end.
#[test]
fn an_error_that_takes_no_item_ends_the_stream() -> Outcome {
    tests::watched("an_error_that_takes_no_item_ends_the_stream", || {
        let (sender, receiver) = queue::bounded::<u64>(1)?;
        let polled = Process::spawn(poll_without_descriptors, (receiver,))?.join()?;
        assert_eq!(polled, (Some(libc::EMFILE), true));
        drop(sender);
        Ok(())
    })
}

#[test]
fn a_dropped_stream_loses_nothing() -> Outcome {
    tests::watched("a_dropped_stream_loses_nothing", || {
        for _ in 0..50 {
            let (sender, receiver) = queue::bounded(10)?;
            let mut stream = receiver.stream();
            assert!(is_pending(&mut stream));
            let thread = thread::spawn(move || sender.send(7).is_ok());
            drop(stream); // its thread may be about to wake it
            assert_eq!(receiver.recv()?, 7);
            assert!(thread.join().unwrap());
        }
        Ok(())
    })
}

#[test]
fn a_dropped_stream_ends_its_thread() -> Outcome {
    tests::watched("a_dropped_stream_ends_its_thread", || {
        let (sender, receiver) = queue::bounded::<u64>(1)?;
        let mut stream = receiver.stream();
        assert!(is_pending(&mut stream));
        drop((stream, receiver));
        while sender.try_send(1).is_ok() || !sender.try_send(1).unwrap_err().error().is_disconnected() {
            thread::yield_now(); // until its thread has dropped the last receiver
        }
        Ok(())
    })
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_latest_waker_is_woken_once() -> Outcome {
    tests::watched("the_latest_waker_is_woken_once", || {
        let (sender, receiver) = queue::bounded::<u64>(1)?;
        let mut stream = receiver.stream();
        let counters = [(); 2].map(|()| Arc::new(Counter(AtomicUsize::new(0))));
        for counter in &counters {
            let waker = Waker::from(Arc::clone(counter));
            assert!(stream.poll_next(&mut Context::from_waker(&waker)).is_pending());
        }
        sender.send(7)?;
        while counters[1].0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert_eq!(counters[0].0.load(Ordering::SeqCst), 0);
        assert_eq!(smol::block_on(stream.next()).unwrap()?, 7);
        assert_eq!(counters[1].0.load(Ordering::SeqCst), 1);
        Ok(())
    })
}

/// Runs in a child.
fn await_item(receiver: Receiver<u64>, waits: Connection<(), ()>) -> Duration {
    let mut stream = receiver.stream();
    smol::block_on(tests::cpu_time_of_wait(stream.next(), waits))
}

#[test]
fn a_stream_that_waits_takes_no_cpu_time() -> Outcome {
    tests::watched("a_stream_that_waits_takes_no_cpu_time", || {
        let (sender, receiver) = queue::bounded(1)?;
        let (waits, theirs) = pipe()?;
        let child = Process::spawn(await_item, (receiver, theirs))?;
        tests::assert_wait_is_idle(child, waits, || sender.send(7).unwrap());
        Ok(())
    })
}

#[test]
fn two_streams_share_a_queue() -> Outcome {
    tests::watched("two_streams_share_a_queue", || {
        let (sender, receiver) = queue::bounded(4)?;
        let child = Process::spawn(send_all, (sender,))?;
        let other = receiver.clone();
        let thread = thread::spawn(move || smol::block_on(rest(other.stream())));
        let here = smol::block_on(rest(receiver.stream()))?;
        let mut all = [here, thread.join().unwrap()?].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert!(child.join()?);
        Ok(())
    })
}

/// The thread that watches the queue runs in the original.
#[test]
#[allow(unsafe_code)]
fn a_copy_of_the_process_awaits_items_too() -> Outcome {
    fn await_in_copy() -> bool {
        let (sender, receiver) = queue::bounded(1).unwrap();
        let mut stream = receiver.stream();
        assert!(is_pending(&mut stream));
        // SAFETY: the process has one thread beside the library's.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                alarm::set(30); // one that hangs is killed
                let is_pending = is_pending(&mut stream);
                let item = smol::block_on(stream.next());
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(i32::from(!(is_pending && matches!(item, Some(Ok(7)))))) }
            }
            ForkResult::Parent { child } => {
                thread::sleep(Duration::from_millis(20)); // the copy awaits, most likely
                sender.send(7).unwrap();
                waitpid(child, None) == Ok(WaitStatus::Exited(child, 0))
            }
        }
    }
    assert!(Process::spawn(await_in_copy, ())?.join()?);
    Ok(())
}
