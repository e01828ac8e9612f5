//! Sets `cfg(loom)`, under which the library's files leave out their unit tests.

fn main() {
    println!("cargo::rustc-cfg=loom");
}
