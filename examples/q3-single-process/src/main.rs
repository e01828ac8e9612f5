//! Create a process: the parent speaks, starts a child, and waits for it.

use multiproc::Process;

fn speak() {
    println!("this is my multiprocessing prog");
}

fn main() -> multiproc::Result<()> {
    multiproc::init(); // in the child process, runs `speak` and never returns

    println!("this my main prog");
    let child = Process::spawn(speak, ())?;
    child.join()
}
