//! One download: all of it, or an error that names the address and the cause, and no file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::NamedTempFile;
use ureq::Agent;

/// What became of a download: the file, or what went wrong. (Errors travel from a child process as text.)
pub(crate) type Outcome = Result<PathBuf, String>;

/// Saves what is at `url` as `file`, by way of a file in the folder `unfinished`. Also the task of a child process.
pub(crate) fn download(url: String, unfinished: PathBuf, file: PathBuf, timeout: Duration) -> Outcome {
    try_download(&url, &unfinished, &file, timeout).map_err(|error| format!("{url}: {error:#}"))?;
    Ok(file)
}

fn try_download(url: &str, folder: &Path, file: &Path, timeout: Duration) -> Result<()> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(timeout)).build().into();
    let mut response = agent.get(url).call().map_err(explain)?;
    // The file gets its name when it is whole. Until then it has another, under which it is removed on an error.
    let mut unfinished =
        NamedTempFile::new_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    io::copy(&mut response.body_mut().as_reader(), &mut unfinished).map_err(|error| explain(error.into()))?;
    unfinished.persist(file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

/// Says in plain words what the client says tersely.
fn explain(error: ureq::Error) -> anyhow::Error {
    match error {
        ureq::Error::StatusCode(code) => anyhow!("the server answered with status {code}"),
        ureq::Error::Timeout(_) => anyhow!("no whole answer within the time limit"),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            anyhow!("the connection was closed before the end of the answer")
        }
        ureq::Error::Io(error) => match error.downcast::<ureq::Error>() {
            Ok(inner) => explain(inner),
            Err(error) => error.into(),
        },
        error => error.into(),
    }
}

/// Decodes an image; what is none is removed.
pub(crate) fn is_whole(file: PathBuf) -> Outcome {
    let decoded = image::ImageReader::open(&file)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(image::ImageError::from)
        .and_then(image::ImageReader::decode);
    match decoded {
        Ok(_) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(&file);
            Err(format!("{} was no whole image, and was removed: {error}", file.display()))
        }
    }
}
