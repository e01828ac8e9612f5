//! A program's dependencies have the same features by themselves as in a build of the whole workspace, so
//! that `cargo run -p …` compiles nothing again after `cargo build`, nor `cargo build` after `cargo test`. A feature of
//! the library brings its own dependencies alone.

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn features_do_not_depend_on_what_else_is_built() {
    let whole = dependencies(&["--workspace"]);
    assert!(whole.len() > 50, "these are not all: {whole:?}");
    let examples = root().join("examples").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let packages =
        examples.map(|name| name.into_string().unwrap()).chain(["xtask", "report"].map(str::to_owned));
    let missing: Vec<_> = packages
        .flat_map(|package| {
            let own = dependencies(&["--package", &package]);
            own.difference(&whole).map(|line| format!("{package}: {line}")).collect::<Vec<_>>()
        })
        .collect();
    assert!(missing.is_empty(), "not the union of the features (see crates/tools/unify): {missing:#?}");
}

/// Else `cargo build` compiles them again after `cargo test`, and with them all that depends on them.
#[test]
fn tests_need_no_other_features_than_programs() {
    let with_tests = tree("all", "{p} {f}", &["--workspace"]);
    let programs = dependencies(&["--workspace"]);
    let only_without: Vec<_> = programs.difference(&with_tests).collect();
    assert!(only_without.is_empty(), "these have more features for tests: {only_without:#?}");
}

#[test]
fn a_feature_of_the_library_brings_its_own_dependencies_alone() {
    let without = names_with("");
    let of_all_programs = ["bytemuck", "castaway", "multiproc", "nix", "serde_core"];
    assert!(of_all_programs.iter().all(|name| without.contains(*name)), "{without:?}");
    for (features, own) in [
        ("async", &["futures-core"][..]),
        ("backtrace", &["addr2line", "gimli", "memchr", "object", "rustc-demangle"]),
        ("log", &["log"]),
        ("trace", &[]),
        ("default", &["addr2line", "gimli", "memchr", "object", "rustc-demangle"]),
    ] {
        let with = names_with(features);
        assert!(with.is_superset(&without), "{features}: {with:?}");
        let added: Vec<_> = with.difference(&without).collect();
        assert_eq!(added, own, "the feature `{features}`");
    }
}

/// Their features are for the programs of this workspace.
#[test]
fn a_library_brings_no_tools_of_the_workspace() {
    for package in ["multiproc", "multiproc-cluster"] {
        let all = tree("normal", "{p}", &["--package", package]);
        let tools: Vec<_> = all.iter().filter(|package| package.contains("crates/tools")).collect();
        assert!(all.len() > 5 && tools.is_empty(), "{package}: {tools:?}");
    }
}

/// What a program compiles for the library with these features alone.
fn names_with(features: &str) -> BTreeSet<String> {
    let what = ["--package", "multiproc", "--no-default-features", "--features", features];
    tree("normal", "{p}", &what).iter().map(|package| package.split(' ').next().unwrap().to_owned()).collect()
}

/// The packages that a build takes, each with its features.
fn dependencies(what: &[&str]) -> BTreeSet<String> {
    tree("no-dev", "{p} {f}", what)
}

fn tree(edges: &str, format: &str, what: &[&str]) -> BTreeSet<String> {
    let tree = ["tree", "--locked", "--offline", "--prefix", "none", "--edges", edges, "--format", format];
    let output = Command::new(env!("CARGO")).args(tree).args(what).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end_matches(" (*)").trim().to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
