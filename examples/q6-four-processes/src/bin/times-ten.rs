//! Each process is joined before the next one starts: in order, but one at a time.

use multiproc::Process;

fn times_ten(process: u32) {
    println!("Process {process} gave a number: {}", process * 10);
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    for number in 1..=4 {
        let child = Process::spawn(times_ten, (number,))?;
        child.join()?;
    }
    Ok(())
}
