//! One child process, given an argument.

use multiproc::Process;

fn hello(subject: String) {
    println!("This is the test of {subject}");
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let child = Process::spawn(hello, ("multiprocessing".to_owned(),))?;
    child.join()
}
