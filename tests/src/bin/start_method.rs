//! A program that starts a child as the environment says, or with an argument by `Spawn`, and prints how many
//! children it has, and whether one is a fork server.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use multiproc::{Connection, Process, StartMethod, pipe, set_start_method};

fn main() {
    if std::env::args().len() > 1 {
        set_start_method(StartMethod::Spawn);
    }
    multiproc::init();
    tests::watched("start_method", || {
        let (ours, theirs) = pipe::<(), ()>().unwrap();
        let wait = |end: Connection<(), ()>| end.send(()).map(|()| drop(end.recv()));
        match Process::builder().name("child").spawn(wait, (theirs,)) {
            Err(error) => println!("{error}"),
            Ok(child) => {
                ours.recv().unwrap(); // from now on it is called so
                let mut children = tests::children_of(std::process::id());
                children.retain(|(pid, name)| !tests::is_preforked(*pid, name));
                let has_server = children.iter().any(|(_, name)| name == "fork-server");
                println!("{} children, {has_server}", children.len());
                drop(ours); // that is what the child waits for
                child.join().unwrap().unwrap();
            }
        }
    });
}
