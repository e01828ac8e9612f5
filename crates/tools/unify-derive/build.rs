//! Nothing: cargo takes the build dependencies of a package only with a build script.

fn main() {}
