//! One download: the whole file, or no file and an error that names the address and the cause.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use multiproc::TaskError;
use ureq::Agent;

/// The file, or an error that can return from a child process.
pub type Outcome = Result<PathBuf, TaskError>;

/// How long one download may take, unless the caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A file is in memory until it is whole: this is the most bytes that it may have.
const MAX_SIZE: u64 = 256 << 20;

/// The folder `images` beside this package's `src`.
pub fn image_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

/// Saves the answer of `url` as `file`; waits for at most [`TIMEOUT`].
///
/// # Errors
/// The text of an error names the address and the cause.
pub fn download(url: String, file: PathBuf) -> Outcome {
    download_within(TIMEOUT, url, file)
}

/// Saves the answer of `url` as `file`; waits for at most `timeout`.
///
/// # Errors
/// The text of an error names the address and the cause.
pub fn download_within(timeout: Duration, url: String, file: PathBuf) -> Outcome {
    let saved = fetch(&url, timeout).and_then(|bytes| save(&bytes, &file));
    saved.map_err(|error| anyhow!("{url}: {error:#}"))?;
    Ok(file)
}

/// Decodes an image, and removes a file that is none.
///
/// # Errors
/// The text of an error names the file and the cause.
pub fn check_image(file: PathBuf) -> Outcome {
    let decoded = image::ImageReader::open(&file)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(image::ImageError::from)
        .and_then(image::ImageReader::decode);
    match decoded {
        Ok(_) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(&file);
            Err(anyhow!("{} was no whole image, and was removed: {error}", file.display()).into())
        }
    }
}

fn fetch(url: &str, timeout: Duration) -> Result<Vec<u8>> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(timeout)).build().into();
    let mut response = agent.get(url).call().map_err(explain)?;
    let body = response.body_mut().with_config().limit(MAX_SIZE);
    body.read_to_vec().map_err(explain)
}

/// Writes a file under a temporary name and renames it: under its own name it is always whole.
fn save(bytes: &[u8], file: &Path) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    let unfinished = file.with_extension(format!("{}.part", process::id()));
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Replaces the HTTP client's terse messages with plain words.
fn explain(error: ureq::Error) -> anyhow::Error {
    match error {
        ureq::Error::StatusCode(code) => anyhow!("the server answered with status {code}"),
        ureq::Error::Timeout(_) => anyhow!("no whole answer within the time limit"),
        ureq::Error::BodyExceedsLimit(limit) => anyhow!("the answer has more than {} MiB", limit >> 20),
        ureq::Error::TlsRequired => anyhow!("https needs a build with `--features https`"),
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
