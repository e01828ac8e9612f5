//! **The environment of a child**, as its builder sets it.

use std::collections::HashSet;
use std::env::var;
use std::fs;

use multiproc::{Pool, Process, Server, StartMethod};
use nix::sys::signal::Signal;

use crate::support::{METHODS, Outcome, alone, eventually, send_signal, trials, with};

trials![
    a_child_has_the_variables_of_its_builder_and_inherits_the_others,
    a_child_has_them_from_its_first_instruction,
    its_children_inherit_them,
    other_children_do_not_have_them,
    every_worker_has_them_and_so_has_its_successor,
    a_preloaded_state_is_made_with_them,
    a_server_has_them,
    what_cannot_be_a_variable_is_an_error,
];

/// The variables `SET`, `KEPT` and `REMOVED`.
type Variables = [Option<String>; 3];

fn variables() -> Variables {
    ["SET", "KEPT", "REMOVED"].map(|name| var(name).ok())
}

fn expected() -> Variables {
    [Some("new = \u{e9}".to_owned()), Some("1".to_owned()), None]
}

/// The variables of the parent, before it starts anything.
fn prepare() {
    for name in ["SET", "KEPT", "REMOVED"] {
        tests::set_variable(name, "1");
    }
}

fn a_child_has_the_variables_of_its_builder_and_inherits_the_others() -> Outcome {
    alone(|| {
        prepare();
        for method in METHODS {
            let builder = with(method).env("SET", "old").env("REMOVED", "2");
            let builder = builder.env("SET", "new = \u{e9}").env_remove("REMOVED");
            assert_eq!(builder.spawn(variables, ())?.join()?, expected(), "{method:?}");
            assert_eq!(variables(), [(); 3].map(|()| Some("1".to_owned())), "the parent's own have changed");
        }
        Ok(())
    })
}

fn a_child_has_them_from_its_first_instruction() -> Outcome {
    alone(|| {
        for method in METHODS {
            let first = || String::from_utf8_lossy(&fs::read("/proc/self/environ").unwrap()).into_owned();
            let environment = with(method).env("SET", "new").spawn(first, ())?.join()?;
            assert!(environment.split('\0').any(|variable| variable == "SET=new"), "{method:?}");
        }
        Ok(())
    })
}

fn its_children_inherit_them() -> Outcome {
    alone(|| {
        prepare();
        for method in METHODS {
            let grandchild = |is_executed: bool| {
                let method = if is_executed { StartMethod::Spawn } else { StartMethod::ForkServer };
                with(method).spawn(variables, ()).unwrap().join().unwrap()
            };
            for is_executed in [true, false] {
                let builder = with(method).env("SET", "new = \u{e9}").env_remove("REMOVED");
                assert_eq!(builder.spawn(grandchild, (is_executed,))?.join()?, expected(), "{method:?}");
            }
        }
        Ok(())
    })
}

fn other_children_do_not_have_them() -> Outcome {
    alone(|| {
        for method in METHODS {
            let is_set = || var("SET").is_ok();
            assert!(!with(method).spawn(is_set, ())?.join()?);
            assert!(with(method).env("SET", "new").spawn(is_set, ())?.join()?);
            assert!(!with(method).spawn(is_set, ())?.join()?, "{method:?}");
        }
        Ok(())
    })
}

fn every_worker_has_them_and_so_has_its_successor() -> Outcome {
    alone(|| {
        prepare();
        for method in METHODS {
            let builder = Pool::builder().workers(2).start_method(method);
            let pool = builder.env("SET", "new = \u{e9}").env_remove("REMOVED").build()?;
            for found in pool.broadcast(variables, ())? {
                assert_eq!(found?, expected(), "{method:?}");
            }
            let before: HashSet<u32> = pool.worker_pids().into_iter().collect();
            for &pid in &before {
                send_signal(pid, Signal::SIGKILL);
            }
            eventually("the workers are replaced", || {
                let now = pool.worker_pids();
                now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
            });
            for found in pool.broadcast(variables, ())? {
                assert_eq!(found?, expected(), "{method:?}");
            }
        }
        Ok(())
    })
}

fn a_preloaded_state_is_made_with_them() -> Outcome {
    alone(|| {
        prepare();
        let builder = Pool::builder().workers(2).start_method(StartMethod::ForkServer);
        let builder = builder.env("SET", "new = \u{e9}").env_remove("REMOVED");
        let pool = builder.preload(variables, ()).build()?;
        let made_and_now = |made: &mut Variables| (made.clone(), variables());
        assert_eq!(pool.apply(made_and_now, ())?, (expected(), expected()));
        Ok(())
    })
}

fn a_server_has_them() -> Outcome {
    alone(|| {
        prepare();
        for method in METHODS {
            let builder = Server::builder().start_method(method).env("SET", "new = \u{e9}");
            let server = builder.env_remove("REMOVED").spawn(variables, ())?;
            assert_eq!(server.call(|made: &mut Variables| made.clone(), ())?, expected(), "{method:?}");
        }
        Ok(())
    })
}

fn what_cannot_be_a_variable_is_an_error() -> Outcome {
    alone(|| {
        for (name, value) in [("", "1"), ("A=B", "1"), ("A\0B", "1"), ("A", "1\0")] {
            let error = Process::builder().env(name, value).spawn(|| (), ()).unwrap_err();
            assert!(error.to_string().contains("environment variable"), "{error}");
            let error = Pool::builder().workers(1).env(name, value).build().unwrap_err();
            assert!(error.to_string().contains("environment variable"), "{error}");
            let forking = Pool::builder().workers(1).start_method(StartMethod::ForkServer).env(name, value);
            let error = forking.preload(|| (), ()).build().unwrap_err();
            assert!(error.to_string().contains("environment variable"), "{error}");
        }
        Ok(())
    })
}
