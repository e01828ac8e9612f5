//! Notes which compiler builds this, for a picture is worth little without the machine that made it.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // "rustc 1.95.0 (59807616e 2026-04-14)"; nothing but name and number is of use here.
    let short: Vec<&str> = version.split_whitespace().take(2).collect();
    println!("cargo:rustc-env=RUSTC_VERSION={}", short.join(" "));
}
