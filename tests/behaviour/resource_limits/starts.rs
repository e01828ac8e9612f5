//! Pools and servers that cannot start a process, and children under limits.

use std::path::Path;
use std::thread;
use std::time::Duration;

use multiproc::server::Limit;
use multiproc::{Pool, Server};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::{limited, open_when_all_is_well};
use crate::support::{METHODS, Outcome, alone, eventually, send_signal, trials, with};

trials![
    a_pool_without_workers_goes_on_when_it_can_have_some,
    a_pool_whose_workers_are_idle_goes_on_when_it_can_have_some,
    a_server_is_made_again_when_it_can_have_a_process,
    children_start_with_an_endless_stack_and_little_memory,
];

/// While its workers are killed and no others can be had, its work fails, and says why; later it goes on.
fn a_pool_without_workers_goes_on_when_it_can_have_some() -> Outcome {
    alone(|| {
        let before = open_when_all_is_well()?;
        for method in METHODS {
            let pool = Pool::builder().workers(2).start_method(method).build()?;
            let errors = limited(Resource::RLIMIT_NOFILE, 3, || {
                for pid in pool.worker_pids() {
                    send_signal(pid, Signal::SIGKILL);
                }
                eventually("the workers are gone", || pool.worker_pids().is_empty());
                [pool.map(increase, 0..100).unwrap_err(), pool.apply(increase, (1,)).unwrap_err()]
            });
            for error in errors {
                assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
                assert!(error.to_string().starts_with("cannot create "), "{error}");
            }
            eventually("the pool goes on", || pool.apply(increase, (1,)).is_ok());
            assert_eq!(pool.map(increase, 0..100)?, (1..=100).collect::<Vec<_>>());
            eventually("it has all of its workers", || pool.worker_pids().len() == 2);
            drop(pool);
            assert_eq!(open_when_all_is_well()?, before);
        }
        Ok(())
    })
}

/// Then no work waits that a worker is started for.
fn a_pool_whose_workers_are_idle_goes_on_when_it_can_have_some() -> Outcome {
    alone(|| {
        open_when_all_is_well()?;
        let pool = Pool::builder().workers(2).idle_timeout(Duration::from_millis(1)).build()?;
        for _ in 0..2 {
            eventually("all workers have ended", || pool.worker_pids().is_empty());
            let error = limited(Resource::RLIMIT_NOFILE, 3, || pool.apply(increase, (1,)).unwrap_err());
            assert_eq!(error.os_error(), Some(Errno::EMFILE as i32), "{error}");
            eventually("the pool goes on", || pool.apply(increase, (1,)).is_ok());
        }
        Ok(())
    })
}

fn a_server_is_made_again_when_it_can_have_a_process() -> Outcome {
    alone(|| {
        open_when_all_is_well()?;
        for method in METHODS {
            let limit = Limit::new(5, Duration::from_secs(3600));
            let server = Server::builder().start_method(method).restart(limit).spawn(|| 7_u64, ())?;
            let killed = server.pid();
            limited(Resource::RLIMIT_NOFILE, 3, || {
                send_signal(killed, Signal::SIGKILL);
                let folder = format!("/proc/{killed}");
                eventually("it is reaped", || !Path::new(&folder).exists());
                thread::sleep(Duration::from_millis(50)); // long enough, as a rule, for the first try to fail
            });
            assert_eq!(server.call(|number: &mut u64| *number, ())?, 7);
            assert_ne!(server.pid(), killed);
        }
        Ok(())
    })
}

fn children_start_with_an_endless_stack_and_little_memory() -> Outcome {
    alone(|| {
        let (_, most) = getrlimit(Resource::RLIMIT_STACK).unwrap();
        setrlimit(Resource::RLIMIT_STACK, most, most).unwrap();
        limited(Resource::RLIMIT_AS, 900 << 20, || {
            METHODS.into_iter().try_for_each(|method| {
                assert_eq!(with(method).spawn(|| 7, ())?.join()?, 7);
                Ok(())
            })
        })
    })
}

fn increase(number: u32) -> u32 {
    number + 1
}
