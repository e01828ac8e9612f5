//! Four images, each decoded in a process of its own. One decoder segfaults; the others and the parent go on.

use experiments::crash; // reads a null pointer; in `crates/tools/experiments`
use multiproc::Process;

/// Stands for a decoder written in C, with a bug that the third image triggers.
fn decode(image: u32) -> u64 {
    if image == 3 {
        crash::segfault();
    }
    u64::from(image) * 1_000
}

fn main() -> multiproc::Result<()> {
    multiproc::init();

    let mut children = Vec::new();
    for image in 1..=4 {
        children.push(Process::spawn(decode, (image,))?);
    }
    for (image, child) in (1..).zip(children) {
        match child.join() {
            Ok(pixels) => println!("image {image}: {pixels} pixels"),
            Err(error) => println!("image {image}: {error}"),
        }
    }
    println!("The parent goes on.");
    Ok(())
}
