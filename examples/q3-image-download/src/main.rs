//! Ten downloads one after another, then ten at once in ten processes.

mod download;
mod folder;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use download::{Outcome, download, is_whole};
use folder::Folder;
use indicatif::ProgressBar;
use multiproc::{Pool, Process};
use server::Server;

/// Downloads an image ten times, one after another and then all at once, and compares the times.
#[derive(Parser)]
struct Options {
    /// What to download, http or https [default: a picture from a server that this program starts]
    #[arg(long)]
    url: Option<String>,
    /// How many times
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Where to keep the images [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long each download may take, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

fn main() -> Result<ExitCode> {
    multiproc::init();
    let Options { url, count, out, timeout } = Options::parse();
    let folder = Folder::open(out)?;
    let (url, _server) = match url {
        None => {
            let server = Server::start()?;
            (server.url(), Some(server)) // it serves until it is dropped, at the end of `main`
        }
        Some(url) => (url, None),
    };
    let timeout = Duration::from_secs(timeout);
    let job = |method, n| (url.clone(), folder.unfinished(), folder.file(method, n), timeout);
    let progress = ProgressBar::new(2 * u64::from(count)); // shown where standard error is a terminal

    let start = Instant::now();
    let in_turn = (1..=count)
        .map(|n| job("normal", n))
        .map(|(url, unfinished, file, timeout)| download(url, unfinished, file, timeout));
    let normal: Vec<Outcome> = progress.wrap_iter(in_turn).collect();
    let normal_took = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let children: Vec<_> = (1..=count).map(|n| Process::spawn(download, job("multi", n))).collect();
    let join = |child: multiproc::Result<Process<Outcome>>| {
        child.and_then(Process::join).unwrap_or_else(|error| Err(format!("{url}: {error}")))
    };
    let multi: Vec<Outcome> = progress.wrap_iter(children.into_iter().map(join)).collect();
    let multi_took = start.elapsed().as_secs_f64();

    progress.finish_and_clear();
    let (normal_count, multi_count) = (normal.iter().flatten().count(), multi.iter().flatten().count());
    println!("Normal method took          : {normal_took:.3} seconds to download {normal_count} images");
    println!("Multiprocessing method took : {multi_took:.3} seconds to download {multi_count} images");
    report([normal, multi].concat())
}

/// Looks whether every file is a whole image, and names what went wrong.
fn report(outcomes: Vec<Outcome>) -> Result<ExitCode> {
    let (files, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Outcome::is_ok);
    let checked = Pool::builder().build()?.map(is_whole, files.into_iter().flatten())?;
    let errors: Vec<_> = failed.into_iter().chain(checked).filter_map(Outcome::err).collect();
    for error in &errors {
        eprintln!("error: {error}");
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
