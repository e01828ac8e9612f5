//! Prints the error of a task that panicked, and its backtrace if it has one.

use multiproc::Process;

#[inline(never)]
fn panic_here(number: u64) {
    assert_ne!(number, 7, "on purpose"); // the panic
}

fn main() -> multiproc::Result<()> {
    multiproc::init();
    let Err(error) = Process::spawn(panic_here, (7,))?.join() else { return Ok(()) };
    println!("{}", error.to_string().replace('\n', " "));
    println!("{}", error.backtrace().map(|backtrace| backtrace.to_string()).unwrap_or_default());
    Ok(())
}
