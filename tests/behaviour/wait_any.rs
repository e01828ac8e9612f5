//! **`wait_any`**: the first of several receivers, pipes, processes, tasks and sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::server::Limit;
use multiproc::{Connection, Fd, Pool, Process, Result, Server, Waitable, pipe, wait_any, wait_any_timeout};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::futures::{blocked_task, square};
use crate::support::{
    METHODS, Outcome, TEST_TIMEOUT, alone, descriptors, send_signal, trials, wait_for_state,
};

trials![
    each_kind_is_seen_when_it_is_ready,
    a_wait_ends_on_time_and_nothing_is_no_wait,
    what_is_ready_at_once_is_returned_together,
    the_end_of_the_other_side_is_ready,
    tasks_are_ready_when_their_pool_ends,
    a_task_is_seen_by_all_threads_that_wait_for_it,
    a_wait_that_is_over_leaves_no_descriptor,
    items_of_several_producers_all_arrive,
    a_call_is_seen_when_its_reply_comes,
    a_call_is_seen_when_its_server_dies,
    calls_of_several_threads_are_all_seen,
    more_tasks_than_descriptors_can_be_waited_for,
    more_calls_than_descriptors_can_be_waited_for,
    a_stopped_receiver_has_no_other_burn_a_cpu,
    a_stopped_sender_has_no_receiver_burn_a_cpu,
];

/// Waits a moment, so that the parent waits already.
fn pause() {
    thread::sleep(Duration::from_millis(30));
}

fn each_kind_is_seen_when_it_is_ready() -> Outcome {
    let (sender, items) = bounded::<u32>(10)?;
    let (here, there) = pipe::<(), u32>()?;
    let (mut client, served) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pool = Pool::new(1)?;
    let served = Fd::from(served);
    let go = bounded::<()>(1)?;
    let idle = Process::spawn(|go: Receiver<()>| go.recv().is_err(), (go.1,))?;
    let gate = bounded::<u32>(1)?;
    let task = pool.submit(|gate: Receiver<u32>| gate.recv().unwrap(), (gate.1,))?;

    let wait = || wait_any_timeout(&[&items, &here, &served, &listener, &idle, &task], TEST_TIMEOUT);
    let send = |sender: Sender<u32>| {
        pause();
        sender.send(1).unwrap();
    };
    let child = Process::spawn(send, (sender.clone(),))?;
    assert_eq!(wait()?, [0]);
    assert_eq!(items.try_recv()?, 1);
    child.join()?;

    let send = |there: Connection<u32, ()>| {
        pause();
        there.send(2).unwrap();
        thread::park();
    };
    let child = Process::spawn(send, (there,))?;
    assert_eq!(wait()?, [1]);
    assert_eq!(here.try_recv()?, 2);

    client.write_all(b"x").unwrap();
    assert_eq!(wait()?, [2]);
    (&*served).read_exact(&mut [0]).unwrap();

    let _client = TcpStream::connect(address).unwrap();
    assert_eq!(wait()?, [3]);
    listener.accept().unwrap();

    gate.0.send(7)?;
    assert_eq!(wait()?, [5]);
    assert_eq!(task.get()?, 7);

    drop(go.0);
    assert_eq!(wait_any_timeout(&[&items, &here, &served, &listener, &idle], TEST_TIMEOUT)?, [4]);
    assert!(idle.join()?);
    Ok(child.kill()?)
}

fn a_wait_ends_on_time_and_nothing_is_no_wait() -> Outcome {
    let (_sender, items) = bounded::<u32>(1)?;
    let (here, _there) = pipe::<(), u32>()?;
    let start = Instant::now();
    assert!(wait_any_timeout(&[&items, &here], Duration::from_millis(120))?.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(120));
    assert!(wait_any_timeout(&[&items], Duration::ZERO)?.is_empty());
    assert!(wait_any(&[])?.is_empty());
    Ok(())
}

fn what_is_ready_at_once_is_returned_together() -> Outcome {
    let queues = [bounded(1)?, bounded(1)?, bounded(1)?];
    queues[0].0.send(1)?;
    queues[2].0.send(2)?;
    assert_eq!(wait_any(&[&queues[0].1, &queues[1].1, &queues[2].1])?, [0, 2]);
    queues[0].1.recv()?;
    assert_eq!(wait_any(&[&queues[0].1, &queues[1].1, &queues[2].1])?, [2]);
    Ok(())
}

fn the_end_of_the_other_side_is_ready() -> Outcome {
    let (sender, items) = bounded::<u32>(1)?;
    let (here, there) = pipe::<(), u32>()?;
    let hold = |_sender: Sender<u32>, _there: Connection<u32, ()>| thread::park();
    let child = Process::spawn(hold, (sender, there))?;
    let killer = thread::spawn(move || {
        pause();
        child.kill().unwrap();
        child
    });
    let ready = wait_any_timeout(&[&items, &here], TEST_TIMEOUT)?;
    assert!(!ready.is_empty());
    assert!(killer.join().unwrap().join().is_err());
    assert_eq!(wait_any_timeout(&[&items, &here], TEST_TIMEOUT)?, [0, 1]);
    assert!(items.try_recv().unwrap_err().is_disconnected());
    assert!(here.try_recv().unwrap_err().is_disconnected());
    Ok(())
}

fn tasks_are_ready_when_their_pool_ends() -> Outcome {
    for method in METHODS {
        let pool = Pool::builder().workers(1).start_method(method).build()?;
        let (running, _latch) = blocked_task(&pool)?;
        let waiting = pool.submit(square, (3,))?;
        thread::scope(|scope| {
            let first = scope.spawn(|| wait_any(&[&running]));
            let second = scope.spawn(|| wait_any(&[&waiting]));
            pause();
            pool.terminate();
            assert_eq!(first.join().unwrap()?, [0]);
            assert_eq!(second.join().unwrap()?, [0]);
            Ok::<_, multiproc::Error>(())
        })?;
        assert!(running.get().is_err());
        assert!(waiting.get().unwrap_err().is_cancelled());
    }
    Ok(())
}

fn a_task_is_seen_by_all_threads_that_wait_for_it() -> Outcome {
    let pool = Pool::new(1)?;
    let (task, latch) = blocked_task(&pool)?;
    let begun = Instant::now();
    thread::scope(|scope| {
        let wait = || wait_any_timeout(&[&task], TEST_TIMEOUT);
        let threads = [(); 3].map(|()| {
            let thread = scope.spawn(wait);
            pause();
            thread
        });
        assert!(wait_any_timeout(&[&task], Duration::from_millis(1))?.is_empty()); // its end is no other's
        drop(latch);
        for thread in threads {
            assert_eq!(thread.join().unwrap()?, [0]);
        }
        Ok::<_, multiproc::Error>(())
    })?;
    assert!(begun.elapsed() < TEST_TIMEOUT, "a thread was not woken");
    task.get()?;
    Ok(())
}

fn a_wait_that_is_over_leaves_no_descriptor() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let (task, latch) = blocked_task(&pool)?;
        let of_events = || {
            let target =
                |number: &u32| std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
            let is_event = |number: &u32| target(number).as_os_str() == "anon_inode:[eventfd]";
            descriptors().into_iter().filter(is_event).count()
        };
        let before = of_events();
        assert!(wait_any_timeout(&[&task], Duration::from_millis(1))?.is_empty());
        assert_eq!(of_events(), before);
        drop(latch);
        task.get()?;
        Ok(())
    })
}

fn items_of_several_producers_all_arrive() -> Outcome {
    let queues = [bounded::<u32>(3)?, bounded(3)?];
    let send = |sender: Sender<u32>| (0..500).try_for_each(|number| Ok(sender.send(number)?));
    let [(first, one), (second, other)] = queues;
    let children: [Process<Result<()>>; 2] =
        [Process::spawn(send, (first,))?, Process::spawn(send, (second,))?];
    let (receivers, mut next) = ([one, other], [0; 2]);
    while next != [500; 2] {
        for index in wait_any_timeout(&[&receivers[0], &receivers[1]], TEST_TIMEOUT)? {
            match receivers[index].try_recv() {
                Ok(number) => assert_eq!(number, next[index]),
                Err(error) if error.is_disconnected() => continue,
                Err(error) => return Err(error.into()),
            }
            next[index] += 1;
        }
    }
    Ok(children.into_iter().try_for_each(|child| child.join()?)?)
}

/// Says that it runs, and waits until the gate is dropped.
fn pass(_state: &mut (), begun: Sender<()>, gate: Receiver<()>) -> bool {
    let _ = begun.send(()); // there may be no receiver
    gate.recv().is_err()
}

fn a_call_is_seen_when_its_reply_comes() -> Outcome {
    let server = Server::spawn(|| (), ())?;
    let (gate, closed) = bounded::<()>(1)?;
    let (_sender, items) = bounded::<u32>(1)?;
    let call = server.submit(pass, (bounded(1)?.0, closed))?;
    let behind = server.submit(|(): &mut ()| 8, ())?;
    assert!(wait_any_timeout(&[&items, &call, &behind], Duration::from_millis(60))?.is_empty());
    let opener = thread::spawn(move || {
        pause();
        drop(gate);
    });
    let ready = wait_any_timeout(&[&items, &call], TEST_TIMEOUT)?;
    assert_eq!(ready, [1]);
    opener.join().unwrap();
    assert!(call.get()?);
    assert_eq!(wait_any_timeout(&[&items, &behind], TEST_TIMEOUT)?, [1]);
    assert_eq!(behind.get()?, 8);
    let taken_by_a_later_call = server.submit(|(): &mut ()| 9, ())?;
    server.call(|(): &mut ()| (), ())?;
    assert_eq!(wait_any_timeout(&[&taken_by_a_later_call], TEST_TIMEOUT)?, [0]);
    assert_eq!(taken_by_a_later_call.get()?, 9);
    Ok(())
}

fn a_call_is_seen_when_its_server_dies() -> Outcome {
    for restarts in [0, 1] {
        let server = match restarts {
            0 => Server::spawn(|| (), ())?,
            _ => Server::builder().restart(Limit::new(1, TEST_TIMEOUT)).spawn(|| (), ())?,
        };
        let (_gate, closed) = bounded::<()>(1)?;
        let (begin, begun) = bounded(1)?;
        let call = server.submit(pass, (begin, closed))?;
        begun.recv()?; // a call that waits would run after the restart
        let pid = server.pid();
        let killer = thread::spawn(move || {
            pause();
            send_signal(pid, Signal::SIGKILL);
        });
        assert_eq!(wait_any_timeout(&[&call], TEST_TIMEOUT)?, [0]);
        killer.join().unwrap();
        assert_eq!(call.get().unwrap_err().signal(), Some(9));
        assert_eq!(server.call(|(): &mut ()| 7, ()).is_ok(), restarts > 0);
    }
    Ok(())
}

/// Each thread's receiving call may take the replies of the others.
fn calls_of_several_threads_are_all_seen() -> Outcome {
    let server = Server::spawn(|| 0_u64, ())?;
    let add = |total: &mut u64, number: u64| {
        *total += number;
        *total
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            let server = server.clone();
            scope.spawn(move || {
                for _ in 0..100 {
                    let call = server.submit(add, (1,)).unwrap();
                    assert_eq!(wait_any_timeout(&[&call], TEST_TIMEOUT).unwrap(), [0]);
                    assert!(call.get().unwrap() >= 1);
                }
            });
        }
    });
    assert_eq!(server.call(add, (0,))?, 300);
    Ok(())
}

const FEW_DESCRIPTORS: u64 = 256;

fn more_tasks_than_descriptors_can_be_waited_for() -> Outcome {
    alone(|| {
        let pool = Pool::new(1)?;
        let (running, latch) = blocked_task(&pool)?;
        let tasks = (0..FEW_DESCRIPTORS + 10).map(|number| pool.submit(square, (number,)));
        let tasks = tasks.collect::<Result<Vec<_>>>()?;
        setrlimit(Resource::RLIMIT_NOFILE, FEW_DESCRIPTORS, FEW_DESCRIPTORS).unwrap();
        let these: Vec<&dyn Waitable> = tasks.iter().map(|task| task as _).collect();
        assert!(wait_any_timeout(&these, Duration::from_millis(10))?.is_empty());
        drop(latch);
        assert!(!wait_any_timeout(&these, TEST_TIMEOUT)?.is_empty());
        running.get()?;
        Ok(())
    })
}

fn more_calls_than_descriptors_can_be_waited_for() -> Outcome {
    alone(|| {
        let server = Server::spawn(|| (), ())?;
        let ((gate, closed), (begin, begun)) = (bounded::<()>(1)?, bounded(1)?);
        let running = server.submit(pass, (begin, closed))?;
        begun.recv()?;
        let calls = (0..FEW_DESCRIPTORS / 2 + 10)
            .map(|number| server.submit(|(): &mut (), number| number, (number,)));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        setrlimit(Resource::RLIMIT_NOFILE, FEW_DESCRIPTORS, FEW_DESCRIPTORS).unwrap();
        let these: Vec<&dyn Waitable> = calls.iter().map(|call| call as _).collect();
        assert!(wait_any_timeout(&these, Duration::from_millis(10))?.is_empty());
        drop(gate);
        assert!(!wait_any_timeout(&these, TEST_TIMEOUT)?.is_empty());
        assert!(running.get()?);
        Ok(())
    })
}

/// Waits for a second for what is not ready: that takes a small part of the time of a CPU.
fn wait_idly(items: &Receiver<u32>) -> Outcome {
    let cpu_time = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let (before, time) = (cpu_time(), Duration::from_secs(1));
    assert!(wait_any_timeout(&[items], time)?.is_empty());
    let used = cpu_time().saturating_sub(before);
    assert!(used < time / 4, "{used:?}");
    Ok(())
}

/// It is stopped in a receive, so no other receiver can know whether there is anything: an item, or the end.
fn a_stopped_receiver_has_no_other_burn_a_cpu() -> Outcome {
    for sends in [false, true] {
        let (sender, items) = bounded::<u32>(1)?;
        let (begin, begun) = bounded::<()>(1)?;
        let receive = |begin: Sender<()>, items: Receiver<u32>| {
            begin.send(()).unwrap();
            items.recv().is_ok()
        };
        let child = Process::spawn(receive, (begin, items.clone()))?;
        begun.recv()?;
        wait_for_state(child.pid(), 'S');
        send_signal(child.pid(), Signal::SIGSTOP);
        wait_for_state(child.pid(), 'T');
        if sends {
            sender.send(7)?;
        }
        drop(sender);
        wait_idly(&items)?;
        child.kill()?;
        assert_eq!(wait_any_timeout(&[&items], TEST_TIMEOUT)?, [0]);
        assert_eq!(items.try_recv().ok(), sends.then_some(7));
    }
    Ok(())
}

/// It is stopped in a send for which there is no room, so what it sends may still come after the end.
fn a_stopped_sender_has_no_receiver_burn_a_cpu() -> Outcome {
    let (sender, items) = bounded::<u32>(1)?;
    sender.send(7)?;
    let (begin, begun) = bounded::<()>(1)?;
    let send = |begin: Sender<()>, sender: Sender<u32>| {
        begin.send(()).unwrap();
        sender.send(8).is_ok()
    };
    let child = Process::spawn(send, (begin, sender.clone()))?;
    begun.recv()?;
    wait_for_state(child.pid(), 'S');
    send_signal(child.pid(), Signal::SIGSTOP);
    wait_for_state(child.pid(), 'T');
    sender.close();
    assert_eq!(items.try_recv()?, 7);
    wait_idly(&items)?;
    child.kill()?;
    assert_eq!(wait_any_timeout(&[&items], TEST_TIMEOUT)?, [0]);
    assert!(items.try_recv().unwrap_err().is_disconnected());
    Ok(())
}
