//! The programs whose contestants are measured: built, and asked what they have.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bench::case::{self, Case};
use bench::program::Listed;
use cargo_metadata::{Message, MetadataCommand};

use super::results::Kind;

/// What one contestant does about one case.
pub(super) struct Entry {
    pub(super) contestant: String,
    pub(super) kind: Kind,
    pub(super) case: &'static Case,
    pub(super) way: Way,
}

/// How a round of it is run.
#[derive(Clone)]
pub(super) enum Way {
    /// A program, and the arguments that come before those of a round.
    Program(PathBuf, Vec<String>),
    /// What the program needs is not there yet.
    NotBuilt,
    /// The program could not even be built.
    NotBuildable,
}

pub(super) struct Contestants {
    pub(super) entries: Vec<Entry>,
    /// What they are, with their versions.
    pub(super) versions: Vec<(String, String)>,
    /// Who is missing, and why.
    pub(super) notes: Vec<String>,
}

pub(super) struct Workshop {
    pub(super) root: PathBuf,
    target: PathBuf,
}

const PEERS: [&str; 5] = ["procspawn", "ipc-channel", "iceoryx2", "rayon", "std-threads"];

impl Workshop {
    pub(super) fn open() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// Builds the programs, and asks them.
    pub(super) fn contestants(&self, peers: bool) -> Result<Contestants> {
        let mut built = build(&self.root, &["--package", "bench", "--bin", "bench"])?;
        let own = built.remove("bench").context("cargo did not build `bench`")?;
        let mut all = Contestants { entries: list(&own, vec![])?, versions: vec![], notes: vec![] };
        if peers {
            self.add_peers(&mut all)?;
            self.add_python(&mut all)?;
        }
        Ok(all)
    }

    fn add_peers(&self, all: &mut Contestants) -> Result<()> {
        let folder = self.root.join("crates/bench-peers");
        let target = self.target.join("bench-peers").display().to_string();
        for peer in PEERS {
            // Each by itself, since the next one may build where this one does not.
            match build(&folder, &["--target-dir", &target, "--bin", peer]) {
                Ok(mut built) => {
                    let program =
                        built.remove(peer).with_context(|| format!("cargo did not build `{peer}`"))?;
                    all.entries.extend(list(&program, vec![])?);
                }
                Err(error) => {
                    all.notes.push(format!("{peer} cannot be built here: {error:#}"));
                    all.entries.extend(not_buildable(peer));
                }
            }
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        let version = |peer: &&str| Some(((*peer).to_owned(), pinned(&manifest, peer)?));
        all.versions.extend(PEERS.iter().filter_map(version));
        Ok(())
    }

    fn add_python(&self, all: &mut Contestants) -> Result<()> {
        // The name on the path may be a script that looks for the real one each time.
        let ask = "import sys; print(sys.executable); print(sys.version.split()[0])";
        let answer = Command::new("python3").args(["-c", ask]).stderr(Stdio::null()).output();
        let answer = answer.ok().filter(|answer| answer.status.success());
        let answer = answer.and_then(|answer| String::from_utf8(answer.stdout).ok());
        let Some((python, version)) = answer.as_deref().and_then(|answer| answer.trim().split_once('\n'))
        else {
            all.notes
                .push("Python's multiprocessing is skipped: there is no python3 on this machine".to_owned());
            return Ok(());
        };
        let script = self.root.join("crates/bench-peers/python_peer.py").display().to_string();
        all.entries.extend(list(Path::new(python), vec![script])?);
        all.versions.push(("CPython".to_owned(), version.to_owned()));
        Ok(())
    }
}

/// Builds with all optimisations what a manifest's folder has; gives the programs by their names.
fn build(folder: &Path, what: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo)
        .args(["build", "--release", "--locked", "--message-format=json-render-diagnostics"])
        .args(what)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let messages = build.stdout.take().context("cargo has no output")?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(path) = artifact.executable
        {
            programs.insert(artifact.target.name, path.into());
        }
    }
    ensure!(build.wait()?.success(), "cargo build fails");
    Ok(programs)
}

/// Asks a program what it has.
fn list(program: &Path, arguments: Vec<String>) -> Result<Vec<Entry>> {
    let answer = Command::new(program).args(&arguments).arg("list").stderr(Stdio::inherit()).output();
    let answer = answer.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(answer.status.success(), "{} does not say what it has", program.display());
    let entry = |line: &str| {
        let Listed { contestant, case, built } = serde_json::from_str(line)?;
        let case =
            case::find(&case).with_context(|| format!("`{contestant}` has an unknown case `{case}`"))?;
        let way = if built { Way::Program(program.to_owned(), arguments.clone()) } else { Way::NotBuilt };
        Ok(Entry { kind: Kind::of(&contestant), contestant, case, way })
    };
    String::from_utf8(answer.stdout)?.lines().map(entry).collect()
}

/// So that nobody overlooks who is missing: a row at the cases that the contestant is known for.
fn not_buildable(peer: &str) -> impl Iterator<Item = Entry> {
    let cases = match peer {
        "procspawn" | "rayon" => vec![&case::MAP, &case::APPLY_HOT, &case::SUM, &case::COLD],
        _ => vec![&case::QUEUE_8B, &case::PING_HOT, &case::COLD],
    };
    let contestant = if peer == "std-threads" { "std threads" } else { peer }.to_owned();
    cases.into_iter().map(move |case| Entry {
        contestant: contestant.clone(),
        kind: Kind::of(&contestant),
        case,
        way: Way::NotBuildable,
    })
}

/// The version of a package that a manifest demands exactly.
fn pinned(manifest: &str, package: &str) -> Option<String> {
    let demand =
        |line: &str| Some(line.strip_prefix(package)?.strip_prefix(" = \"=")?.strip_suffix('"')?.to_owned());
    manifest.lines().find_map(demand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_says_the_exact_version() {
        let manifest = "[dependencies]\nrayon-core = \"=1.1.0\"\nrayon = \"=1.12.0\"\nserde = \"1\"\n";
        assert_eq!(pinned(manifest, "rayon").as_deref(), Some("1.12.0"));
        assert_eq!(pinned(manifest, "serde"), None);
    }
}
