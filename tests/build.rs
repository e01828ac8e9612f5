//! Links one of the programs in another way than all others.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=without_relro=-Wl,-z,norelro");
}
