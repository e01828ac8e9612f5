//! Prints whether the error of a task that panicked has a backtrace with the function that did it.

use multiproc::Process;

#[inline(never)]
fn panic_here(number: u64) {
    assert_ne!(number, 7, "on purpose");
}

fn main() -> multiproc::Result<()> {
    multiproc::init();
    let Err(error) = Process::spawn(panic_here, (7,))?.join() else { return Ok(()) };
    let backtrace = error.backtrace().map(|backtrace| backtrace.to_string());
    println!("{:?}", backtrace.map(|text| text.contains("panic_here")));
    Ok(())
}
