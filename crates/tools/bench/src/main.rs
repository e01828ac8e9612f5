//! The library and the floor under it, as contestants of `cargo xtask bench`.

mod floor;
mod ours;

use std::process::ExitCode;

use bench::program;

fn main() -> ExitCode {
    multiproc::init();
    if let Some(code) = ours::fresh() {
        return code;
    }
    let entries: Vec<_> = floor::entries().into_iter().chain(ours::entries()).collect();
    program::run(&entries)
}
