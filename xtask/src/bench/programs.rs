//! The programs of the entrants: builds them, and asks each for its entries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bench::case::{self, CLUSTER, Case};
use bench::program::Listed;
use cargo_metadata::MetadataCommand;

use super::results::Kind;
use crate::programs::{PEERS as FOLDER, build, build_peer, pinned, python};

/// One entrant's entry for one case.
pub(super) struct Entry {
    pub(super) entrant: String,
    pub(super) kind: Kind,
    pub(super) case: &'static Case,
    pub(super) launch: Launch,
}

/// How a round of the entry is run.
#[derive(Clone)]
pub(super) enum Launch {
    /// A program, and the arguments that come before those of a round.
    Program(PathBuf, Vec<String>),
    /// The entrant does not do this case, for a reason.
    LeftOut(String),
    /// The program could not even be built.
    NotBuildable,
}

pub(super) struct Entrants {
    pub(super) entries: Vec<Entry>,
    /// What they are, with their versions.
    pub(super) versions: Vec<(String, String)>,
    /// The missing entrants, and why.
    pub(super) notes: Vec<String>,
}

pub(super) struct Programs {
    pub(super) root: PathBuf,
    target: PathBuf,
}

const PEERS: [&str; 5] = ["procspawn", "ipc-channel", "iceoryx2", "rayon", "std-threads"];

impl Programs {
    pub(super) fn open() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// Builds the programs, and asks each for its entries.
    pub(super) fn entrants(&self, cases: &[&Case], peers: bool) -> Result<Entrants> {
        let mut built = build(&self.root, &["--package", "bench", "--bin", "bench"])?;
        let own = built.remove("bench").context("cargo did not build `bench`")?;
        let mut with_logs =
            build(&self.root, &["--package", "bench", "--bin", "bench-log", "--features", "log"])?;
        let logs = with_logs.remove("bench-log").context("cargo did not build `bench-log`")?;
        let mut all = Entrants { entries: list(&own, vec![])?, versions: vec![], notes: vec![] };
        all.entries.extend(list(&logs, vec![])?);
        let has_cluster = cases.iter().any(|case| case.workload == CLUSTER);
        if has_cluster {
            let mut built = build(&self.root, &["--package", "bench-cluster", "--bin", "bench-cluster"])?;
            let program = built.remove("bench-cluster").context("cargo did not build `bench-cluster`")?;
            all.entries.extend(list(&program, vec![])?);
        }
        if peers {
            self.add_peers(&mut all)?;
            self.add_python(&mut all, has_cluster)?;
        }
        Ok(all)
    }

    fn add_peers(&self, all: &mut Entrants) -> Result<()> {
        for peer in PEERS {
            // Each by itself, since the next one may build where this one does not.
            match build_peer(&self.root, &self.target, peer) {
                Ok(program) => all.entries.extend(list(&program, vec![])?),
                Err(error) => {
                    all.notes.push(format!("{peer} cannot be built here: {error:#}"));
                    all.entries.extend(not_buildable(peer));
                }
            }
        }
        let manifest = fs::read_to_string(self.root.join(FOLDER).join("Cargo.toml"))?;
        let version = |peer: &&str| Some(((*peer).to_owned(), pinned(&manifest, peer)?));
        all.versions.extend(PEERS.iter().filter_map(version));
        Ok(())
    }

    fn add_python(&self, all: &mut Entrants, has_cluster: bool) -> Result<()> {
        let Some((python, version)) = python() else {
            all.notes
                .push("Python's multiprocessing is skipped: there is no python3 on this machine".to_owned());
            return Ok(());
        };
        all.entries.extend(list(&python, self.script("python_peer.py"))?);
        all.versions.push(("CPython".to_owned(), version));
        let real = ("requirements.txt", "joblib, and Python with NumPy and Pillow, are skipped");
        self.add_packaged(all, &python, real, "python_real.py")?;
        if has_cluster {
            let cluster = ("requirements-cluster.txt", "Celery and Ray are skipped");
            self.add_packaged(all, &python, cluster, "python_cluster.py")?;
        }
        Ok(())
    }

    /// The entries of a script, which says itself what is missing without its packages.
    fn add_packaged(
        &self,
        all: &mut Entrants,
        python: &Path,
        (packages, without): (&str, &str),
        script: &str,
    ) -> Result<()> {
        let packages = self.root.join(FOLDER).join(packages);
        let python = match self.python_with_packages(python, &packages) {
            Ok(python) => {
                all.versions.extend(fs::read_to_string(packages)?.lines().filter_map(pinned_package));
                python
            }
            Err(error) => {
                all.notes.push(format!("{without}: {error:#}"));
                python.to_owned()
            }
        };
        all.entries.extend(list(&python, self.script(script))?);
        Ok(())
    }

    fn script(&self, name: &str) -> Vec<String> {
        vec![self.root.join(FOLDER).join(name).display().to_string()]
    }

    /// A Python of its own beside what is built, with these packages.
    fn python_with_packages(&self, python: &Path, packages: &Path) -> Result<PathBuf> {
        let folder = self.target.join("bench-peers").join("python");
        let own = folder.join("bin").join("python");
        if !own.exists() {
            quietly(Command::new(python).args(["-m", "venv"]).arg(&folder))?;
        }
        let install = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--requirement"];
        quietly(Command::new(&own).args(install).arg(packages))?;
        Ok(own)
    }
}

/// Runs a program whose last words are the error if it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", words.lines().last().unwrap_or("it says nothing"));
    Ok(())
}

/// A package and its version, of a line of requirements.
fn pinned_package(line: &str) -> Option<(String, String)> {
    let (name, version) = line.split_once("==")?;
    Some((name.trim().to_owned(), version.trim().to_owned()))
}

/// Asks a program for its entries.
fn list(program: &Path, arguments: Vec<String>) -> Result<Vec<Entry>> {
    let answer = Command::new(program).args(&arguments).arg("list").stderr(Stdio::inherit()).output();
    let answer = answer.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(answer.status.success(), "{} does not say what it has", program.display());
    let entry = |line: &str| {
        let Listed { entrant, case, left_out } = serde_json::from_str(line)?;
        let case = case::find(&case).with_context(|| format!("`{entrant}` has an unknown case `{case}`"))?;
        let launch = match left_out {
            None => Launch::Program(program.to_owned(), arguments.clone()),
            Some(reason) => Launch::LeftOut(reason),
        };
        Ok(Entry { kind: Kind::of(&entrant), entrant, case, launch })
    };
    String::from_utf8(answer.stdout)?.lines().map(entry).collect()
}

/// A row for a missing entrant, at the cases that it is known for, so that its absence shows.
fn not_buildable(peer: &str) -> impl Iterator<Item = Entry> {
    let cases = match peer {
        "procspawn" | "rayon" => vec![&case::MAP, &case::APPLY_HOT, &case::SUM, &case::COLD],
        _ => vec![&case::QUEUE_8B, &case::PING_HOT, &case::COLD],
    };
    let entrant = if peer == "std-threads" { "std threads" } else { peer }.to_owned();
    cases.into_iter().map(move |case| Entry {
        entrant: entrant.clone(),
        kind: Kind::of(&entrant),
        case,
        launch: Launch::NotBuildable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_says_why() {
        let failing =
            |script: &str| quietly(Command::new("sh").args(["-c", script])).unwrap_err().to_string();
        assert_eq!(failing("echo first >&2; echo 'no network' >&2; exit 1"), "no network");
        assert_eq!(failing("exit 1"), "it says nothing");
        assert!(quietly(&mut Command::new("true")).is_ok());
    }

    #[test]
    fn requirements_pin_versions() {
        assert_eq!(pinned_package("joblib==1.6.0"), Some(("joblib".to_owned(), "1.6.0".to_owned())));
        assert_eq!(pinned_package("# why"), None);
    }
}
