//! The programs of this workspace: which there are, which a command means, and where they are built.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{MetadataCommand, Package, PackageId};

use super::{command::Command, readme::Problem};
use crate::programs::{built, cargo_build};

pub struct Workspace {
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    packages: Vec<Package>,
}

/// The package and name of a program.
pub type Program = (PackageId, String);

impl Workspace {
    pub fn load() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self {
            root: metadata.workspace_root.into(),
            target: metadata.target_directory.into(),
            packages: metadata.packages,
        })
    }

    pub fn examples(&self) -> PathBuf {
        self.root.join("examples")
    }

    /// The program that a command runs.
    pub fn find(&self, command: &Command) -> Result<Program> {
        let name = &command.package;
        let package = self.packages.iter().find(|package| package.name.as_str() == name);
        let package = package.with_context(|| format!("there is no package `{name}`"))?;
        let bins = bins(package);
        let bin = match (&command.bin, &package.default_run, bins.as_slice()) {
            (Some(bin), ..) => {
                ensure!(bins.contains(bin), "the package `{name}` has no program `{bin}`");
                bin
            }
            (None, Some(bin), _) | (None, None, [bin]) => bin,
            (None, None, _) => bail!(
                "the package `{name}` has {} programs: choose with `--bin`, or `default-run` in its Cargo.toml",
                bins.len()
            ),
        };
        Ok((package.id.clone(), bin.clone()))
    }

    /// The file with the `main` of a program.
    pub fn source(&self, (package, name): &Program) -> Option<PathBuf> {
        let package = self.packages.iter().find(|candidate| candidate.id == *package)?;
        let target = package.targets.iter().find(|target| target.is_bin() && target.name == *name)?;
        Some(target.src_path.clone().into())
    }

    /// The programs under `examples/` that are not among those `shown`.
    pub fn not_shown(&self, shown: &BTreeSet<Program>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (question, package) in self.packages_of_examples() {
            for bin in bins(package) {
                let program = (package.id.clone(), bin);
                if !shown.contains(&program) {
                    let what = format!("no README runs the program `{}`", program.1);
                    problems.push(Problem {
                        question: question.clone(),
                        place: format!("examples/{question}"),
                        what,
                    });
                }
            }
        }
        problems
    }

    /// Builds the programs under `examples/`, and says where each is. Of the whole workspace, so that their
    /// dependencies have the features that they have in other builds, and are not compiled again.
    pub fn build(&self) -> Result<BTreeMap<Program, PathBuf>> {
        let mut build = cargo_build(&self.root);
        build.arg("--workspace");
        for bin in self.packages_of_examples().flat_map(|(_, package)| bins(package)) {
            build.args(["--bin", &bin]);
        }
        built(&mut build)
    }

    /// The packages under `examples/`, with the names of their questions' folders.
    fn packages_of_examples(&self) -> impl Iterator<Item = (String, &Package)> {
        let examples = self.examples();
        self.packages.iter().filter_map(move |package| {
            let path = package.manifest_path.as_std_path().strip_prefix(&examples).ok()?;
            Some((path.iter().next()?.to_string_lossy().into_owned(), package))
        })
    }
}

fn bins(package: &Package) -> Vec<String> {
    package.targets.iter().filter(|target| target.is_bin()).map(|target| target.name.clone()).collect()
}
