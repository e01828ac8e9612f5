//! The service and its clients: a request that crashes its worker harms no other.

#![allow(clippy::unwrap_used, reason = "a test ends where something does not go as it should")]

use std::net::SocketAddr;
use std::thread;

use super::*;

multiproc::init_for_tests!();

/// A service under a runtime, until the runtime is dropped.
fn start(workers: usize) -> (Runtime, SocketAddr) {
    let pool = Arc::new(Pool::new(workers).unwrap());
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(serve(listener, pool));
    (runtime, address)
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = ureq::get(format!("http://{address}/{path}")).config().http_status_as_error(false);
    let mut response = request.build().call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

fn assert_crashes(address: SocketAddr) {
    let (status, text) = get(address, "0");
    assert_eq!(status, 500, "{text}");
    assert!(text.ends_with("was killed by SIGABRT while running its task"), "{text}");
}

#[test]
fn a_request_that_crashes_the_only_worker_is_an_error_and_the_next_is_answered() {
    let (_runtime, address) = start(1);
    for _ in 0..3 {
        assert_crashes(address);
        assert_eq!(get(address, "91"), (200, "91 is divisible by 7".to_owned()));
    }
}

#[test]
fn a_request_that_runs_beside_a_crash_is_answered() {
    let (_runtime, address) = start(2);
    let prime = 10_000_019;
    let beside = thread::spawn(move || get(address, &prime.to_string()));
    while !beside.is_finished() {
        assert_crashes(address);
    }
    assert_eq!(beside.join().unwrap(), (200, format!("{prime} is divisible by {prime}")));
}

#[test]
fn what_is_no_number_is_the_clients_error() {
    let (_runtime, address) = start(1);
    assert_eq!(get(address, "seven"), (400, "/seven is not a number".to_owned()));
}
