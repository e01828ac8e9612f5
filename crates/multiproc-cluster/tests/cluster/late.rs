//! What reaches a host late: chunks that others have had since, and answers to questions that it has given up.

use std::time::Duration;

use futures_util::StreamExt;

use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, trials, wait_until};
use crate::work::square;

trials![a_late_answer_leaves_a_slot_one_request];

/// The broker is silent for longer than a slot waits for its answer, and then gives it.
fn a_late_answer_leaves_a_slot_one_request() -> Outcome {
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.pool("requests");
    assert_eq!(pool.apply(square, (3,))?, 9);
    server.stop();
    std::thread::sleep(LEASE / 2 + Duration::from_millis(2500));
    server.resume();
    let stream = server.streams().remove(0);
    wait_until("each of the two slots has one request", || {
        server.as_client(async |context| {
            let mut requests = context.client().subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
            let stream = context.get_stream(&stream).await.unwrap();
            let mut most = 0;
            for _ in 0..8 {
                tokio::time::timeout(TEST_TIMEOUT, requests.next()).await.unwrap();
                most = most.max(stream.consumer_info("agents").await.unwrap().num_waiting);
            }
            most <= 2
        })
    });
    Ok(())
}
