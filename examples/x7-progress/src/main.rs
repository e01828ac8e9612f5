//! A progress bar over a pool: a thousand items, of which some fail and one crashes its worker.

use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use multiproc::{Pool, TaskError};

/// Takes a moment. Every hundredth item fails, and one crashes its worker.
fn convert(number: u32) -> Result<u32, TaskError> {
    sleep(Duration::from_millis(2));
    match number {
        250 => std::process::abort(),
        _ if number % 100 == 99 => Err(format!("{number} cannot be converted").into()),
        _ => Ok(number),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiproc::init();

    let numbers: Vec<u32> = (0..1000).collect();
    let pool = Pool::new(4)?;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec}, {eta} left, {msg}")?;
    let bar = ProgressBar::new(0).with_style(style).with_message("0 failed"); // hidden unless in a terminal
    let (mut done, mut failed) = (0, 0);
    let results = pool.imap_unordered(convert, numbers);
    bar.set_length(results.len() as u64);
    for result in results.progress_with(bar.clone()) {
        // The pool's error (a crash) and the function's own count alike.
        match result.map_err(TaskError::from).flatten() {
            Ok(_) => done += 1,
            Err(error) => {
                failed += 1;
                bar.set_message(format!("{failed} failed"));
                bar.println(error.to_string());
            }
        }
    }
    println!("{done} converted, {failed} failed");
    Ok(())
}
