//! Three hosts whose links are cut, mended and slow.

use std::collections::HashSet;
use std::thread;

use multiproc_cluster::Pool;

use crate::network::Network;
use crate::server::Server;
use crate::support::{LEASE, OBJECT_LEN, Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::{enlarge, slow_square, square};

trials![each_item_has_one_result_whatever_the_links_do];

fn each_item_has_one_result_whatever_the_links_do() -> Outcome {
    // The thread goes into a namespace, and does not come back.
    thread::spawn(links).join().unwrap();
    Ok(())
}

fn links() {
    let (network, server) = Network::with_hosts(3);
    let mut agents = vec![network.agent(0, &server), network.agent(1, &server)];

    run(&server, "late", 2, &mut |count, pool| {
        if count == 200 {
            leave_an_object_store(&server, pool);
            agents.push(network.agent(2, &server));
            pool.wait_for_hosts(3, TEST_TIMEOUT).unwrap();
        }
    });
    run(&server, "cut", 3, &mut |count, pool| {
        if count == 200 {
            leave_an_object_store(&server, pool);
            network.cut(0);
            wait_until("the host is given up", || pool.hosts().len() == 2);
        }
        if count == 1000 {
            network.mend(0);
        }
    });
    run(&server, "mended", 3, &mut |count, _| match count {
        200 => network.cut(1),
        201 => thread::sleep(LEASE / 4), // shorter than the lease
        202 => network.mend(1),
        _ => {}
    });
    network.slow_down(2);
    run(&server, "slow", 3, &mut |_, _| {});
    network.cut(1);
    run(&server, "slow and cut", 2, &mut |_, _| {});
}

/// The pool's end has more to remove.
fn leave_an_object_store(server: &Server, pool: &Pool) {
    assert_eq!(pool.apply(enlarge, (vec![1; OBJECT_LEN], 1)).unwrap().0, OBJECT_LEN);
    assert!(server.streams().iter().any(|name| name.starts_with("OBJ_")));
}

/// Runs items, with what happens after each result; every one has its result, and nothing is left.
fn run(server: &Server, phase: &str, hosts: usize, after: &mut dyn FnMut(usize, &Pool)) {
    println!("{phase}");
    let pool = server.pool(&phase.replace(' ', "-"));
    pool.wait_for_hosts(hosts, TEST_TIMEOUT).unwrap();
    let (items, mut squares) = (0..1500, HashSet::new());
    for result in pool.imap_unordered(slow_square, items.clone()) {
        assert!(squares.insert(result.unwrap()), "one has two results");
        after(squares.len(), &pool);
    }
    assert_eq!(squares, items.map(square).collect(), "{phase}");
    drop(pool);
    wait_until("streams and objects are gone", || server.streams().is_empty());
}
