//! Does nothing: cargo asks for it where a package says what it links to, for which see `Cargo.toml`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
