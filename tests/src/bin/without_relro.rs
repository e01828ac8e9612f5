//! A program whose constants with addresses stay in memory that can be written: see the build script.

fn main() {
    multiproc::init();
    tests::start_by_each_method();
}
