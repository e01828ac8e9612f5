//! The library and the baseline under it, as entrants of `cargo xtask bench`.

mod baseline;
mod library;

use std::process::ExitCode;

use bench::program;

fn main() -> ExitCode {
    multiproc::init();
    if let Some(code) = library::fresh() {
        return code;
    }
    let entries: Vec<_> = baseline::entries().into_iter().chain(library::entries()).collect();
    program::run(&entries)
}
