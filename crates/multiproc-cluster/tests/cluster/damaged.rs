//! Objects and chunks at the broker that are not what they say.

use std::thread;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::ObjectInfo;
use data_encoding::BASE64URL;
use futures_util::StreamExt;
use multiproc::Error;
use multiproc_cluster::Cluster;

use crate::link::Link;
use crate::pulls::Pulls;
use crate::server::Server;
use crate::support::{LEASE, OBJECT_LEN, Outcome, TEST_TIMEOUT, trials, wait_for_begin, wait_until};
use crate::work::{HOUR, enlarge, hold, sleep, square, wait_and_enlarge};

trials![
    an_object_that_is_not_as_long_as_it_says_is_an_error,
    a_chunk_of_another_build_does_not_run,
    a_chunk_that_is_handed_back_often_runs,
];

/// The cases run at once: in each, an object is read again and again for a lease.
fn an_object_that_is_not_as_long_as_it_says_is_an_error() -> Outcome {
    type Case = (&'static str, fn() -> Error);
    let cases: [Case; 3] = [
        ("arguments that say that they are short", || error_of_arguments(10)),
        ("arguments that say that they are too long for any memory", || error_of_arguments(usize::MAX)),
        ("results that say that they are too long for any memory", || error_of_results(usize::MAX)),
    ];
    thread::scope(|scope| {
        for (name, case) in cases {
            let check = move || {
                let error = case().to_string();
                assert!(error.contains("in the broker's object store"), "{error}");
            };
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, check).unwrap();
        }
    });
    Ok(())
}

/// The host reads them when it is free.
fn error_of_arguments(size: usize) -> Error {
    let server = Server::start();
    let _agent = server.agent("a");
    let pool = server.cluster().lease(LEASE * 5).connect().unwrap().pool("damaged").unwrap();
    let busy = [(); 2].map(|()| pool.submit(sleep, (HOUR,)).unwrap());
    server.wait_for_chunks("the host is busy", 2);
    let mut task = pool.submit(enlarge, (vec![1; OBJECT_LEN], 1)).unwrap();
    wait_until("the arguments are stored", || server.objects() == 1);
    change_size(&server, size);
    for task in busy {
        assert!(task.cancel());
    }
    task.get_timeout(TEST_TIMEOUT).unwrap_err()
}

/// The caller is cut off until they are damaged.
fn error_of_results(size: usize) -> Error {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let _agent = server.agent("a");
    let link = Link::to(&server);
    let pool = Cluster::builder(&link.url()).lease(LEASE * 10).connect().unwrap().pool("damaged").unwrap();
    let results = pool.apply(enlarge, (Vec::new(), OBJECT_LEN)).unwrap(); // so there is a store
    assert_eq!(results.1.len(), OBJECT_LEN);
    wait_until("it is empty", || server.stored_bytes("OBJ_") == 0);
    let mut task = pool.submit(wait_and_enlarge, (folder.path().to_owned(), OBJECT_LEN)).unwrap();
    wait_for_begin(folder.path(), &[]);
    wait_until("the caller knows", || task.is_running());
    link.cut();
    std::fs::write(folder.path().join("go"), "").unwrap();
    wait_until("the results are stored", || server.objects() == 1);
    change_size(&server, size);
    link.mend();
    task.get_timeout(TEST_TIMEOUT).unwrap_err()
}

/// Has the only object say that it has this size.
fn change_size(server: &Server, size: usize) {
    let streams = server.streams();
    let bucket = streams.iter().find_map(|name| name.strip_prefix("OBJ_")).unwrap();
    server.as_client(async |context| {
        let store = context.get_object_store(bucket).await.unwrap();
        let mut objects = store.list().await.unwrap();
        let object = objects.next().await.unwrap().unwrap();
        let object = ObjectInfo { size, modified: None, ..object };
        let subject = format!("$O.{bucket}.M.{}", BASE64URL.encode(object.name.as_bytes()));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let object = serde_json::to_vec(&object).unwrap();
        context.publish_with_headers(subject, headers, object.into()).await.unwrap().await.unwrap();
    });
}

/// It is removed, and nothing of it begins.
fn a_chunk_of_another_build_does_not_run() -> Outcome {
    let server = Server::start();
    let folder = tempfile::tempdir()?;
    let pool = server.cluster().lease(LEASE * 10).connect()?.pool("stranger")?;
    let task = pool.submit(hold, (folder.path().to_owned(), Vec::new()))?;
    wait_until("the chunk is sent", || server.stored_bytes("MULTIPROC_") > 0);
    let name = server.streams().remove(0);
    let (subject, mut chunk) = server.as_client(async |context| {
        let message = context.get_stream(&name).await.unwrap().get_raw_message(1).await.unwrap();
        (message.subject, message.payload.to_vec())
    });
    assert!(task.cancel());
    wait_until("the chunk is removed", || server.stored_bytes("MULTIPROC_") == 0);
    chunk[0] ^= 1; // the build comes first
    let agent = server.as_client(async |context| {
        context.publish(subject, chunk.into()).await.unwrap().await.unwrap();
        let agent = server.agent("a");
        let removed = async {
            while context.get_stream(&name).await.unwrap().cached_info().state.messages > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, removed).await.expect("it is not removed");
        agent
    });
    assert!(agent.log().contains("an unreadable chunk"), "{}", agent.log());
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "it has begun");
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

/// A broker that bounds deliveries would keep it. The test hands it back in place of hosts that are full.
fn a_chunk_that_is_handed_back_often_runs() -> Outcome {
    let server = Server::start();
    let pool = server.cluster().lease(HOUR).connect()?.pool("back")?;
    let mut task = pool.submit(square, (3,))?;
    let name = server.streams().remove(0);
    server.as_client(async |context| {
        let mut pulls = Pulls::of_stream(&name, &context).await;
        let handed_back = async {
            for _ in 0..20 {
                let chunk = pulls.next().await;
                pulls.hand_back(chunk).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, handed_back).await.expect("it does not come again");
        let info = context.get_stream(&name).await.unwrap().consumer_info("agents").await.unwrap();
        // More than any number of slots: the bound counts all clients together.
        assert_eq!((info.config.max_deliver, info.config.max_ack_pending), (-1, 1 << 20));
    });
    let _agent = server.agent("a");
    assert_eq!(task.get_timeout(TEST_TIMEOUT)?, Some(9));
    Ok(())
}
