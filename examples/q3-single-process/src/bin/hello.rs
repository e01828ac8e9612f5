//! One child process that says hello, and what the parent can know of it.

use multiproc::Process;

fn hello(subject: String) {
    println!("This is the test of {subject}");
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let child = Process::spawn(hello, ("multiprocessing".to_owned(),))?;
    child.join()
}
