//! The layers of the library, read from its `use` lines: no circle, and no module uses one above it.
//!
//! A module and the folder that it lies in count as one another's: `mod.rs` is the face of its folder, so
//! `super::` is no circle. Tests may use anything, so they are left out: what follows `#[cfg(test)]` and the
//! files in [`TESTS`].

#![allow(clippy::unwrap_used)] // A test that cannot be set up fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules at the root from the top to the bottom. Each may use those below it, and nothing else.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["receiver_stream"],
    &["process_future", "wait"],
    &["init", "process", "process_info", "fd", "queue", "pipe", "shared_array"],
    &["shared_slice"],
    &["mapping_cache"],
    &["replay"],
    &["pool"],
    &["server"],
    &["sync"],
    &["channel"],
    &["spawn"],
    &["start_method"],
    &["record", "callback_thread"],
    &["task"],
    &["logs", "trace"],
    &["ipc"],
    &["codec"],
    &["sys"],
    &["error"],
    &["impl_serde"],
];

/// The ends of the names of files and folders that only tests use.
const TESTS: [&str; 3] = ["tests", "fuzz", "testing"];

/// For each module those that it uses. A module is its path below `src`: `["pool", "call"]`; `["lib"]` is the
/// root.
type Uses = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

#[test]
fn the_library_has_no_arrow_upward() {
    assert_eq!(upward(&uses_of(&sources())), [] as [String; 0]);
}

#[test]
fn the_library_has_no_circle() {
    let uses = uses_of(&sources());
    assert_eq!(circle(&folders(&uses)), None);
    assert_eq!(circle(&uses), None);
}

#[test]
fn an_arrow_upward_and_a_circle_are_found() {
    let source =
        |path: &str, text: &str| (path.split('/').map(str::to_owned).collect::<Vec<_>>(), text.to_owned());
    let good = [
        source("lib", "pub use pool::Pool;"),
        source(
            "pool",
            "use crate::{error::Error, sys::{self, poll}};\n#[cfg(test)]\nmod tests { use crate::lib; }",
        ),
        source("pool/call", "use super::Inner;"),
        source("pool/chunk", "use super::call::Call;"),
        source("sys", "pub use crate::error::Error;"),
        source("sys/poll", "use std::io;"),
        source("error", ""),
    ];
    let uses = uses_of(&good);
    assert_eq!((upward(&uses).len(), circle(&uses), circle(&folders(&uses))), (0, None, None));
    assert!(uses[&vec!["pool".to_owned()]].contains(&vec!["sys".to_owned(), "poll".to_owned()]));

    for (path, text) in [
        ("error", "use crate::\n    sys::poll;"),
        ("sys/poll", "fn f() { crate::pool::call::f() }"),
        ("sys", "use crate::Error;"),
        ("other", ""),
    ] {
        let sources: Vec<_> = good.iter().cloned().chain([source(path, text)]).collect();
        assert_eq!(upward(&uses_of(&sources)).len(), 1, "{path}: {text}");
    }
    let sources: Vec<_> =
        good.iter().cloned().chain([source("pool/call", "use super::chunk::Chunk;")]).collect();
    assert!(circle(&uses_of(&sources)).is_some(), "between files");
    let sources: Vec<_> =
        good.iter().cloned().chain([source("sys/poll", "use crate::pool::chunk::X;")]).collect();
    assert!(circle(&folders(&uses_of(&sources))).is_some(), "between folders");
}

/// The text of every module.
fn sources() -> Vec<(Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/multiproc/src");
    let mut sources = Vec::new();
    read(&root, &[], &mut sources);
    assert!(sources.len() > 30, "these are not all: {}", sources.len());
    sources
}

fn read(folder: &Path, module: &[String], sources: &mut Vec<(Vec<String>, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let inner = [module, &[name.to_owned()]].concat();
        if TESTS.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if path.is_dir() {
            read(&path, &inner, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let module = if name == "mod" { module.to_owned() } else { inner };
            sources.push((module, fs::read_to_string(path).unwrap()));
        }
    }
}

fn uses_of(sources: &[(Vec<String>, String)]) -> Uses {
    let modules: BTreeSet<_> = sources.iter().map(|(module, _)| module.clone()).collect();
    let mut uses = Uses::new();
    for (module, text) in sources {
        let used = uses.entry(module.clone()).or_default();
        for path in paths(module, text) {
            // The longest beginning that is a module; the rest names what is in it.
            let mut beginnings = (1..=path.len()).rev().map(|length| path[..length].to_vec());
            let target = beginnings.find(|beginning| modules.contains(beginning));
            used.extend(
                target.or(Some(vec!["lib".to_owned()])).filter(|target| !are_related(module, target)),
            );
        }
    }
    uses
}

/// Whether one lies within the other.
fn are_related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Every path of the crate in a module's text, from the root of the crate.
fn paths(module: &[String], text: &str) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + " ").collect();
    let mut paths = Vec::new();
    // `$crate` is in an exported macro, which expands in another crate.
    for (at, _) in code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with('$')) {
        expand(&code[at + "crate::".len()..], &[], &mut paths);
    }
    for (at, _) in code.match_indices("use super::") {
        let mut rest = &code[at + "use ".len()..];
        let mut base = module;
        while let Some(inner) = rest.strip_prefix("super::") {
            (rest, base) = (inner, &base[..base.len().saturating_sub(1)]);
        }
        expand(rest, base, &mut paths);
    }
    paths
}

/// The paths of a tree such as `sys::{self, poll::Deadline}`; gives what follows the tree.
fn expand<'t>(tree: &'t str, base: &[String], paths: &mut Vec<Vec<String>>) -> &'t str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        while !rest.trim_start().starts_with('}') && !rest.trim().is_empty() {
            let after = expand(rest, base, paths);
            // Up to the comma or brace: `as` and a name, or `*`.
            rest = after.trim_start_matches(|sign| sign != ',' && sign != '}');
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        return rest.trim_start().strip_prefix('}').unwrap_or_default();
    }
    let end = tree.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    let path =
        if name == "self" || name.is_empty() { base.to_owned() } else { [base, &[name.to_owned()]].concat() };
    if let Some(inner) = rest.trim_start().strip_prefix("::") {
        return expand(inner, &path, paths);
    }
    paths.push(path);
    rest
}

/// What uses something that does not lie below it.
fn upward(uses: &Uses) -> Vec<String> {
    let layer = |module: &[String]| LAYERS.iter().position(|layer| layer.contains(&module[0].as_str()));
    let mut wrong = Vec::new();
    for (module, used) in uses {
        let Some(own) = layer(module) else {
            wrong.push(format!("{} has no layer", module.join("/")));
            continue;
        };
        let is_wrong =
            |other: &&Vec<String>| other[0] != module[0] && layer(other).is_some_and(|layer| layer <= own);
        let all = used.iter().filter(is_wrong);
        wrong.extend(all.map(|other| format!("{} uses {}", module.join("/"), other.join("/"))));
    }
    wrong
}

/// The same for the folders and files at the root.
fn folders(uses: &Uses) -> Uses {
    let mut folders = Uses::new();
    for (module, used) in uses {
        let others = used.iter().map(|other| other[..1].to_vec()).filter(|other| other[0] != module[0]);
        folders.entry(module[..1].to_vec()).or_default().extend(others);
    }
    folders
}

/// Modules that use one another in a circle, if there are any.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    fn follow(
        module: &Vec<String>,
        uses: &Uses,
        way: &mut Vec<Vec<String>>,
        done: &mut BTreeSet<Vec<String>>,
    ) -> bool {
        if way.contains(module) {
            way.push(module.clone());
            return true;
        }
        if !done.insert(module.clone()) {
            return false;
        }
        way.push(module.clone());
        let found = uses.get(module).into_iter().flatten().any(|next| follow(next, uses, way, done));
        if !found {
            way.pop();
        }
        found
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    let found = uses.keys().any(|module| follow(module, uses, &mut way, &mut done));
    let first = way.iter().position(|module| Some(module) == way.last()).unwrap_or(0);
    found.then(|| way[first..].iter().map(|module| module.join("/")).collect())
}
