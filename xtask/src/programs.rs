//! Programs that commands run: built by cargo, or found on this machine.

use std::collections::BTreeMap;
use std::env;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, PackageId};

/// Makes a release build of a manifest's folder; returns the programs by name.
pub(crate) fn build(folder: &Path, what: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut build = cargo_build(folder);
    let programs = built(build.args(["--release", "--locked"]).args(what))?;
    Ok(programs.into_iter().map(|((_, name), path)| (name, path)).collect())
}

/// A `cargo build` in this folder; the caller adds the packages.
pub fn cargo_build(folder: &Path) -> Command {
    let mut build = cargo("build", folder);
    build.arg("--message-format=json-render-diagnostics");
    build
}

/// Cargo in this folder, in the environment in which a user runs it.
///
/// `cargo run` sets variables for xtask. Build scripts that read them (`ring`'s does) would run again, and
/// everything that depends on them would be compiled again, each time that xtask and a user take turns.
pub(crate) fn cargo(subcommand: &str, folder: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).current_dir(folder);
    for (name, _) in env::vars_os().filter(|(name, _)| is_set_for_xtask(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

/// Whether `cargo run` sets this variable for the program that it runs.
fn is_set_for_xtask(variable: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    variable == "CARGO_PRIMARY_PACKAGE" || PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

/// Runs the build; returns the programs by package and name.
pub fn built(build: &mut Command) -> Result<BTreeMap<(PackageId, String), PathBuf>> {
    let mut build = build.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let messages = build.stdout.take().context("cargo has no output")?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(path) = artifact.executable
        {
            programs.insert((artifact.package_id, artifact.target.name), path.into());
        }
    }
    ensure!(build.wait()?.success(), "cargo build fails");
    Ok(programs)
}

/// Builds one program of the package that uses other libraries, which is outside of the workspace.
pub(crate) fn build_peer(root: &Path, target: &Path, name: &str) -> Result<PathBuf> {
    let target = target.join("bench-peers").display().to_string();
    let mut built = build(&root.join(PEERS), &["--target-dir", &target, "--bin", name])?;
    built.remove(name).with_context(|| format!("cargo did not build `{name}`"))
}

/// The folder of that package.
pub(crate) const PEERS: &str = "crates/tools/bench-peers";

/// Path and version of Python, if it is on this machine.
pub fn python() -> Option<(PathBuf, String)> {
    // The name on the path may be a script that searches for the real one each time.
    let ask = "import sys; print(sys.executable); print(sys.version.split()[0])";
    let answer = Command::new("python3").args(["-c", ask]).stderr(Stdio::null()).output().ok()?;
    let answer = answer.status.success().then(|| String::from_utf8(answer.stdout).ok())??;
    let (python, version) = answer.trim().split_once('\n')?;
    Some((python.into(), version.to_owned()))
}

/// The version of a package that a manifest demands exactly.
pub(crate) fn pinned(manifest: &str, package: &str) -> Option<String> {
    let demand =
        |line: &str| Some(line.strip_prefix(package)?.strip_prefix(" = \"=")?.strip_suffix('"')?.to_owned());
    manifest.lines().find_map(demand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_see_what_it_set_for_xtask() {
        // `cargo test` sets them for this program, too.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let removed: Vec<_> = cargo("build", Path::new("/"))
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            assert!(removed.iter().any(|removed| removed == name), "{name} is not among {removed:?}");
        }
        assert!(!removed.iter().any(|removed| removed == "CARGO_HOME" || removed == "CARGO_TARGET_DIR"));
    }

    #[test]
    fn a_manifest_says_the_exact_version() {
        let manifest = "[dependencies]\nrayon-core = \"=1.1.0\"\nrayon = \"=1.12.0\"\nserde = \"1\"\n";
        assert_eq!(pinned(manifest, "rayon").as_deref(), Some("1.12.0"));
        assert_eq!(pinned(manifest, "serde"), None);
    }
}
