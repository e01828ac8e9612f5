//! A program that starts a child by each method, and prints its result.

fn main() {
    multiproc::init();
    tests::start_by_each_method();
}
