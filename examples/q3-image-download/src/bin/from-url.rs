//! The two methods with an image of your choice. A download that fails leaves the others alone.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lexopt::prelude::*;
use multiproc::{Pool, Process};
use q3_image_download::download::{Outcome, TIMEOUT, check_image, download_within, image_folder};

const HELP: &str = "\
Downloads an image ten times, one after another and then all at once, and compares the times

Usage: from-url [OPTIONS] <URL>

Arguments:
  <URL>  What to download: http, or https in a build with `--features https`

Options:
      --count <COUNT>      How many times, 1 to 1000 [default: 10]
      --out <DIR>          Where to keep the images [default: the folder `images` of the package]
      --timeout <SECONDS>  How long each download may take, 1 to 86400 [default: 30]
  -h, --help               Print help
";

struct Options {
    url: String,
    count: u32,
    out: PathBuf,
    timeout: Duration,
}

fn main() -> Result<ExitCode> {
    multiproc::init();
    match parse(lexopt::Parser::from_env()) {
        Ok(Some(options)) => compare(&options),
        Ok(None) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error:#}\n\nFor more information, try '--help'.");
            Ok(ExitCode::from(2))
        }
    }
}

fn compare(options: &Options) -> Result<ExitCode> {
    let Options { url, count, out, timeout } = options;
    fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let job = |method, number| (*timeout, url.clone(), out.join(format!("{method}-{number:02}.jpg")));

    let start = Instant::now();
    let mut normal = Vec::new();
    for number in 1..=*count {
        let (timeout, url, file) = job("normal", number);
        normal.push(download_within(timeout, url, file));
    }
    report("Normal method took          :", start, &normal);

    let start = Instant::now();
    let mut children = Vec::new();
    for number in 1..=*count {
        children.push(Process::spawn(download_within, job("multi", number)));
    }
    let mut multi = Vec::new();
    for child in children {
        let outcome = child.and_then(Process::join);
        multi.push(outcome.unwrap_or_else(|error| Err(format!("{url}: {error}").into())));
    }
    report("Multiprocessing method took :", start, &multi);

    name_failures([normal, multi].concat())
}

fn report(method: &str, start: Instant, outcomes: &[Outcome]) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{method} {seconds:.3} seconds to download {} images", outcomes.iter().flatten().count());
}

/// Decodes every file; names each download that failed and each file that is no image.
fn name_failures(outcomes: Vec<Outcome>) -> Result<ExitCode> {
    let (files, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Outcome::is_ok);
    let checked = Pool::builder().build()?.map(check_image, files.into_iter().flatten())?;
    let mut exit = ExitCode::SUCCESS;
    for error in failed.into_iter().chain(checked).filter_map(Outcome::err) {
        eprintln!("error: {error}");
        exit = ExitCode::FAILURE;
    }
    Ok(exit)
}

/// `None` is a request for help.
fn parse(mut arguments: lexopt::Parser) -> Result<Option<Options>> {
    let (mut url, mut count, mut out, mut timeout) = (None, 10, image_folder(), None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("count") => count = number(&mut arguments, "--count", 1..=1000)?,
            Long("out") => out = arguments.value()?.into(),
            Long("timeout") => timeout = Some(number(&mut arguments, "--timeout", 1..=86_400)?),
            Short('h') | Long("help") => return Ok(None),
            Value(value) if url.is_none() => url = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let url = url.context("missing argument <URL>")?;
    let timeout = timeout.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
    Ok(Some(Options { url, count, out, timeout }))
}

/// The value of the option `name`, if it is one of `range`.
fn number(arguments: &mut lexopt::Parser, name: &str, range: RangeInclusive<u32>) -> Result<u32> {
    let value = arguments.value()?.parse().with_context(|| format!("the value of `{name}`"))?;
    ensure!(range.contains(&value), "`{name}` takes a number from {} to {}", range.start(), range.end());
    Ok(value)
}
