//! The stream of a queue's receiver.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use multiproc::queue::{self, Receiver, Sender};
use multiproc::{Process, pipe};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
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

/// Runs in a child: the CPU time of a stream that waits, in milliseconds.
fn time_of_a_wait(receiver: Receiver<u64>, ready: multiproc::Connection<(), ()>) -> i64 {
    let time = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        (usage.user_time() + usage.system_time()).num_milliseconds()
    };
    let mut stream = receiver.stream();
    let mut begun = None;
    smol::block_on(poll_fn(|context| {
        let polled = stream.poll_next(context);
        if polled.is_pending() && begun.is_none() {
            begun = Some(time());
            ready.send(()).unwrap();
        }
        polled.map(drop)
    }));
    time() - begun.unwrap()
}

#[test]
fn a_stream_that_waits_burns_nothing() -> Outcome {
    tests::watched("a_stream_that_waits_burns_nothing", || {
        let (sender, receiver) = queue::bounded(1)?;
        let (ready, theirs) = pipe::<(), ()>()?;
        let child = Process::spawn(time_of_a_wait, (receiver, theirs))?;
        ready.recv()?;
        thread::sleep(Duration::from_secs(1)); // what is measured
        sender.send(7)?;
        let time = child.join()?;
        assert!(time < 100, "{time} ms of CPU time in a second of waiting");
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
