//! Records of failed tasks: one file for each, from which the program can run that task again (`replay`).

mod build;
mod file;

use std::fs::{DirBuilder, File, OpenOptions, read_dir, remove_file};
use std::io::{self, ErrorKind::AlreadyExists, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, fs};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::privileges::is_secure;
use crate::sys::process::own_pid;
use crate::sys::process_local::ProcessLocal;
use crate::sys::stdio::print_error;

pub(crate) use self::file::{Arguments, Runner, TaskRecord};

/// The default limits: the files in a directory, and the bytes of the arguments in each.
pub(crate) const MAX_FILES: usize = 100;
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// How the names of records end.
const EXTENSION: &str = "record";

/// Writes records to a directory.
#[derive(Debug)]
pub(crate) struct Recorder {
    directory: PathBuf,
    max_files: usize,
    max_bytes: usize,
    /// How many more tasks this process may record.
    left: AtomicUsize,
    /// One thread writes at a time.
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    /// The number in the next file's name.
    next: u64,
    /// A failure was reported; later ones are not.
    has_reported: bool,
}

/// Why arguments with descriptors are not recorded.
pub(crate) const HOLD_DESCRIPTORS: &str =
    "they hold descriptors, which are those of queues, pipes, locks, files and shared memory";

/// The directory for the records of all processes of the program, once it is known.
static WANTED: OnceLock<Option<PathBuf>> = OnceLock::new();

/// The directory that `MULTIPROC_RECORD` names, if it is set and not empty: as it is named where the first
/// process was when this was called first. A program that has more privileges than its caller writes nothing
/// where its caller says.
pub(crate) fn wanted_directory() -> Option<PathBuf> {
    let absolute = |path| path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path));
    let name = || env::var_os("MULTIPROC_RECORD").filter(|name| !name.is_empty() && !is_secure());
    WANTED.get_or_init(|| name().map(absolute)).clone()
}

/// In a child: takes its parent's [`wanted_directory`], since the child may be elsewhere.
pub(crate) fn set_wanted_directory(directory: Option<PathBuf>) {
    let _ = WANTED.set(directory);
}

impl Recorder {
    /// Creates the directory if there is none.
    pub(crate) fn new(directory: &Path, max_files: usize, max_bytes: usize) -> Result<Arc<Self>> {
        let failed =
            |error: io::Error| Error::io(&format!("create the directory {}", directory.display()), &error);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let directory = fs::canonicalize(directory).map_err(failed)?; // the program may go elsewhere
        // One more than may be: its failure is reported.
        let left = AtomicUsize::new(max_files.saturating_add(1));
        let writer = Mutex::default();
        Ok(Arc::new(Self { directory, max_files, max_bytes, left, writer }))
    }

    /// That of the environment's directory, if it names one.
    pub(crate) fn from_environment() -> Result<Option<Arc<Self>>> {
        // A forked copy of the process has a lock of its own, and may record as many tasks again.
        static RECORDER: ProcessLocal<Result<Option<Arc<Recorder>>>> = ProcessLocal::new(|_| {
            wanted_directory().map(|path| Recorder::new(&path, MAX_FILES, MAX_BYTES)).transpose()
        });
        RECORDER.get().clone()
    }

    /// Whether to record a task that has failed with this error. Counts it if so.
    pub(crate) fn takes(&self, error: &Error) -> bool {
        let is_wanted = matches!(error.kind(), ErrorKind::Died | ErrorKind::Timeout | ErrorKind::Panic);
        is_wanted && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// The arguments for a record, from their length and a function that reads them.
    pub(crate) fn arguments(&self, length: usize, read: impl FnOnce() -> Result<Vec<u8>>) -> Arguments {
        if length > self.max_bytes {
            return Err(format!("they take {length} bytes, and the limit is {}", self.max_bytes));
        }
        read().map_err(|error| error.to_string())
    }

    /// Writes a record; returns the error with the path of its file. Blocks until it is written. A failure is
    /// reported on standard error, once.
    pub(crate) fn record(&self, record: &TaskRecord) -> Error {
        let error = record.error.clone();
        let mut writer = self.lock();
        match self.write(&mut writer, record) {
            Ok(path) => error.with_record(path),
            Err(why) => {
                if !std::mem::replace(&mut writer.has_reported, true) {
                    let directory = self.directory.display();
                    print_error(&format!("multiproc: cannot record failed tasks in {directory}: {why}"));
                }
                error
            }
        }
    }

    fn write(&self, writer: &mut Writer, record: &TaskRecord) -> io::Result<PathBuf> {
        if self.count()? >= self.max_files {
            let limit = format!("it holds {} records", self.max_files);
            return Err(io::Error::other(limit));
        }
        let content = record.encode(build::identity()).map_err(io::Error::other)?;
        let (path, mut file) = self.create(writer)?;
        file.write_all(&content).inspect_err(|_| drop(remove_file(&path)))?;
        Ok(path)
    }

    /// How many records the directory holds, those of other processes too.
    fn count(&self) -> io::Result<usize> {
        let names = read_dir(&self.directory)?.flatten().map(|entry| entry.file_name());
        Ok(names.filter(|name| Path::new(name).extension().is_some_and(|end| end == EXTENSION)).count())
    }

    /// Creates the next file, for this user alone. A name that exists is an earlier process's.
    fn create(&self, writer: &mut Writer) -> io::Result<(PathBuf, File)> {
        let program = build::program().and_then(|path| path.file_name().map(ToOwned::to_owned));
        let program = program.unwrap_or_else(|| "program".into());
        loop {
            let name = format!("{}-{}-{}.{EXTENSION}", program.display(), own_pid(), writer.next);
            let path = self.directory.join(name);
            writer.next += 1;
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == AlreadyExists => {}
                opened => return opened.map(|file| (path, file)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
