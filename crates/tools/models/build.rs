//! Tells the library's files that they are compiled for the models, which do without their unit tests.

fn main() {
    println!("cargo::rustc-cfg=loom");
}
