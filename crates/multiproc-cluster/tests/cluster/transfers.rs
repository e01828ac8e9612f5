//! Payloads that take longer than a lease on their way.

use futures_util::StreamExt;
use multiproc_cluster::{Cluster, HostLoss};

use crate::link::Link;
use crate::server::Server;
use crate::support::{LEASE, Outcome, TEST_TIMEOUT, trials};
use crate::work::{enlarge, square};

trials![results_on_their_way_to_the_caller_outlive_their_host];

/// A part of an object takes a quarter of a second.
const BYTES_PER_SECOND: u64 = 512 * 1024;

/// The caller fetches them for twice as long as it hears of no host.
fn results_on_their_way_to_the_caller_outlive_their_host() -> Outcome {
    const COUNT: usize = 4_000_000;
    for loss in [HostLoss::Fail, HostLoss::Retry(4)] {
        let server = Server::start();
        let mut agent = server.agent("a");
        let link = Link::to(&server);
        let pool = Cluster::builder(&link.url()).lease(LEASE * 2).connect()?.pool("fetched")?;
        assert_eq!(pool.apply(square, (3,))?, 9);
        link.slow_down(BYTES_PER_SECOND);
        let mut task = server.as_client(async |context| {
            let mut parts = context.client().subscribe("$JS.API.DIRECT.GET.>").await.unwrap();
            context.client().flush().await.unwrap();
            let task = pool.options().on_host_loss(loss).submit(enlarge, (Vec::new(), COUNT)).unwrap();
            tokio::time::timeout(TEST_TIMEOUT, parts.next()).await.unwrap();
            task
        });
        agent.kill();
        let result = task.get_timeout(TEST_TIMEOUT)?;
        assert_eq!(result.map(|(_, bytes)| bytes.len()), Some(COUNT), "{loss:?}");
    }
    Ok(())
}
