//! The one kind of command that a console block can show.

use anyhow::{Context, Result, bail, ensure};

/// `cargo run [-q] -p PACKAGE [--bin PROGRAM] [-- ARGUMENTS…]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// As the README has it.
    pub text: String,
    pub package: String,
    pub bin: Option<String>,
    pub arguments: Vec<String>,
}

impl Command {
    pub fn parse(text: &str) -> Result<Self> {
        // The program is started without a shell, so these would not do what a reader thinks.
        if let Some(sign) = text.find(['|', '&', ';', '<', '>', '$', '`', '*']).map(|at| &text[at..=at]) {
            bail!("`{sign}` is for a shell, and there is none");
        }
        let words = shlex::split(text).context("a quotation mark is not closed")?;
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let ["cargo", "run", options @ ..] = words.as_slice() else {
            bail!("only `cargo run` is understood, not `{text}`");
        };
        let (mut package, mut bin, mut arguments) = (None, None, Vec::new());
        let mut options = options.iter();
        while let Some(&option) = options.next() {
            let mut value = || {
                options.next().map(ToString::to_string).with_context(|| format!("`{option}` names nothing"))
            };
            match option {
                "-q" | "--quiet" => {}
                "-p" | "--package" => package = Some(value()?),
                "--bin" => bin = Some(value()?),
                "--" => arguments = options.by_ref().map(ToString::to_string).collect(),
                "--release" => {
                    bail!("`--release` is not understood: everything is built once, as `cargo build` does")
                }
                _ => bail!("`{option}` is not an option that is understood"),
            }
        }
        let package = package.context("the command names no package with `-p`")?;
        ensure!(!package.is_empty(), "the package has no name");
        Ok(Self { text: text.to_owned(), package, bin, arguments })
    }
}
