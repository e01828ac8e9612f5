//! A task through a NATS server, written by hand: a work-queue stream, a process that pulls from it, and an answer
//! beside the stream. It loses the task if that process dies.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use async_nats::jetstream::{self, AckKind};
use bench::measure::{Measured, Scale, repeated};
use bench::work::check;
use futures_util::StreamExt;
use multiproc::Process;
use tokio::runtime::{Builder, Runtime};

use crate::hosts::Broker;

const STREAM: &str = "baseline";
const SUBJECT: &str = "baseline.work";
const CONSUMER: &str = "workers";

/// The median time of one task and its result.
pub(crate) fn task(scale: Scale, tasks: usize) -> Result<Measured> {
    let broker = Broker::start()?;
    let runtime = runtime()?;
    let (client, context) = runtime.block_on(async {
        let (client, context) = connect(&broker.url).await?;
        make_stream(&context).await?;
        anyhow::Ok((client, context))
    })?;
    let worker = Process::spawn(serve, (broker.url.clone(),))?;
    let inbox = client.new_inbox();
    let mut results = runtime.block_on(client.subscribe(inbox.clone()))?;
    let measured = repeated(scale, tasks, || {
        runtime.block_on(async {
            let taken = context.publish(SUBJECT, inbox.clone().into()).await?;
            let result = results.next().await.context("the connection has ended")?;
            taken.await?;
            check("result", inbox.len() as u64, result.payload.len() as u64)
        })
    });
    worker.kill()?;
    let _ = worker.join(); // an error: it was killed
    measured
}

/// The worker: a task is the subject of its answer, which has as many bytes. Runs until it is killed.
fn serve(url: String) -> Result<(), String> {
    let serving = async {
        let (client, context) = connect(&url).await?;
        let consumer: PullConsumer = context.get_consumer_from_stream(CONSUMER, STREAM).await?;
        let mut tasks =
            consumer.stream().max_messages_per_batch(1).expires(Duration::from_secs(5)).messages().await?;
        while let Some(task) = tasks.next().await {
            let task = task?;
            let inbox = std::str::from_utf8(&task.payload)?.to_owned();
            let result = "r".repeat(inbox.len());
            client.publish(inbox, result.into()).await?;
            task.ack_with(AckKind::Ack).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        anyhow::Ok(())
    };
    runtime().and_then(|runtime| runtime.block_on(serving)).map_err(|error| format!("{error:#}"))
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

async fn connect(url: &str) -> Result<(async_nats::Client, jetstream::Context)> {
    let client = async_nats::connect(url).await?;
    Ok((client.clone(), jetstream::new(client)))
}

async fn make_stream(context: &jetstream::Context) -> Result<()> {
    let (name, subjects) = (STREAM.to_owned(), vec![SUBJECT.to_owned()]);
    let config =
        stream::Config { name, subjects, retention: RetentionPolicy::WorkQueue, ..stream::Config::default() };
    let stream = context.create_stream(config).await?;
    let durable_name = Some(CONSUMER.to_owned());
    stream.create_consumer(pull::Config { durable_name, ..pull::Config::default() }).await?;
    Ok(())
}
