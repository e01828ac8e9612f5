//! A program that ends while its child is still on the way to `init`.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use std::os::unix::process::parent_id;
use std::thread::yield_now;

use multiproc::Process;

fn main() {
    let parent = parent_id();
    if tests::is_started_by_itself() {
        while parent_id() == parent {
            yield_now();
        }
    }
    multiproc::init();
    println!("main runs");
    std::thread::spawn(|| Process::spawn(|| (), ())); // which may wait for the child
    while tests::children_of(std::process::id()).is_empty() {
        yield_now();
    }
}
