//! Links one of the programs in another way than all others, and compiles the C function that aborts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=without_relro=-Wl,-z,norelro");
    println!("cargo::rerun-if-changed=src/crash.c");
    cc::Build::new().file("src/crash.c").debug(true).compile("crash");
}
