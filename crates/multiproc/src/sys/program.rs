//! Finds the file of this program, for a child to execute.
//!
//! That is `/proc/self/exe`, unless another program was executed and has loaded this one: the dynamic loader
//! with this program as its argument, or valgrind. Then it is the file that the image is mapped from.

use std::ffi::{CStr, CString, OsString, c_char};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{getpid, gettid};

use super::entry::start_of_image;
use super::process_local::ProcessLocal;
use crate::error::{Cause, Error, Result};

/// The file that this process executes. By way of the thread, since the first thread may have ended.
pub(super) const EXECUTED: &CStr = c"/proc/thread-self/exe";

/// How each path begins that this library executes. Others that execute a program again write `/proc/self/exe`.
const SPELLING: &str = "/proc/./";

/// Whether this library has executed this process, as a child.
pub(super) fn is_executed_as_child() -> bool {
    // SAFETY: takes a number.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if path.is_null() {
        return false;
    }
    // SAFETY: the kernel has put a string there, which stays as long as the process.
    unsafe { CStr::from_ptr(path) }.to_bytes().starts_with(SPELLING.as_bytes())
}

/// The file of this program.
pub(super) enum Program {
    /// The one that the kernel has executed.
    Executed,
    /// One that the executed program has loaded.
    Loaded(File),
}

impl Program {
    /// Found once by each process, then cached.
    pub(super) fn own() -> Result<&'static Self> {
        static OWN: ProcessLocal<OnceLock<Program>> = ProcessLocal::new(|_| OnceLock::new());
        let own = OWN.get();
        if let Some(program) = own.get() {
            return Ok(program);
        }
        let found = Self::find()?;
        Ok(own.get_or_init(|| found))
    }

    fn find() -> Result<Self> {
        let failed = |error: io::Error| start_error(errno_of(&error));
        let executed = || fs::read_link("/proc/thread-self/exe").map_err(failed);
        let before = executed()?;
        let maps = File::open("/proc/thread-self/maps").map_err(failed)?;
        let Some(mapped) = file_at(start_of_image(), BufReader::new(maps)).map_err(failed)? else {
            return Ok(Self::Executed); // which has unpacked this program into anonymous memory
        };
        // Read the link again if need be: the file may have been renamed between the two reads.
        if mapped.is_at(&before) || mapped.is_at(&executed()?) {
            return Ok(Self::Executed);
        }
        mapped.open().map(Self::Loaded).ok_or_else(|| {
            Error::new(Cause::Start(format!(
                "this program was loaded by {}, so its own file must be executed, and that is gone: {}",
                before.display(),
                mapped.path.display()
            )))
        })
    }

    /// Its path in this thread.
    pub(super) fn path_here(&self) -> CString {
        match self {
            Self::Executed => EXECUTED.to_owned(),
            Self::Loaded(_) => self.path_for_child(),
        }
    }

    /// Its path in a child that is about to execute it: this very file, even if it was replaced on disk.
    pub(super) fn path_for_child(&self) -> CString {
        let path = match self {
            Self::Executed => format!("{SPELLING}self/exe"),
            // By this thread's descriptor, since the child has closed its copy by then.
            Self::Loaded(file) => {
                format!("{SPELLING}{}/task/{}/fd/{}", getpid(), gettid(), file.as_raw_fd())
            }
        };
        CString::new(path).unwrap_or_default() // holds no zero byte
    }
}

/// The error of a start that failed with `errno`.
pub(super) fn start_error(errno: Errno) -> Error {
    let is_without_proc = errno == Errno::ENOENT && !Path::new("/proc/self").exists();
    let why = if is_without_proc { ", since /proc is not mounted (mount -t proc proc /proc)" } else { "" };
    Error::os(&format!("start a child process{why}"), errno)
}

pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// A file from which memory is mapped, as `/proc/self/maps` names it.
#[derive(Debug, PartialEq)]
struct MappedFile {
    inode: u64,
    path: PathBuf,
}

impl MappedFile {
    /// Compares names: on stacked file systems (overlayfs), the inode in `maps` is not that of the file.
    fn is_at(&self, path: &Path) -> bool {
        let mut escaped = Vec::new();
        for &byte in path.as_os_str().as_bytes() {
            if byte == b'\n' { escaped.extend_from_slice(br"\012") } else { escaped.push(byte) }
        }
        self.path.as_os_str().as_bytes() == escaped
    }

    /// Opens this very file with `O_PATH`: it is executed, and need not be readable.
    fn open(&self) -> Option<File> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&self.path).ok()?;
        (file.metadata().ok()?.ino() == self.inode).then_some(file)
    }
}

/// The file that is mapped at `address`, if there is one.
fn file_at(address: usize, maps: impl BufRead) -> io::Result<Option<MappedFile>> {
    for line in maps.split(b'\n') {
        let line = line?;
        let mut fields = line.splitn(2, |&byte| byte == b' ').map(String::from_utf8_lossy);
        let range = fields.next().unwrap_or_default();
        let ends =
            range.split_once('-').map(|(start, end)| [start, end].map(|it| usize::from_str_radix(it, 16)));
        if let Some([Ok(start), Ok(end)]) = ends
            && (start..end).contains(&address)
        {
            let path = line.iter().position(|&byte| byte == b'/').map(|start| line[start..].to_vec());
            let inode = fields.next().and_then(|rest| rest.split_whitespace().nth(3)?.parse().ok());
            let file = |(path, inode)| MappedFile { inode, path: OsString::from_vec(path).into() };
            return Ok(path.zip(inode).map(file));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_an_address_in_it() {
        let maps = b"\
            5000-6000 r--p 00000000 fe:00 77                         /some where/a (b) /c\n\
            6000-7000 rw-p 00000000 00:00 0 \n\
            7000-8000 r-xp 00001000 00:05 78                         /new\\012line (deleted)\n\
            8000-9000 rw-p 00000000 00:00 0                          [heap]\n";
        let found = |address| file_at(address, &maps[..]).unwrap();
        let first = MappedFile { inode: 77, path: "/some where/a (b) /c".into() };
        assert_eq!([0x4fff, 0x6000, 0x8000, 0x9000].map(found), [const { None }; 4]);
        assert_eq!(found(0x5fff).as_ref(), Some(&first));
        assert!(first.is_at(Path::new("/some where/a (b) /c")) && !first.is_at(Path::new("/c")));
        assert!(found(0x7000).unwrap().is_at(Path::new("/new\nline (deleted)")));
    }

    #[test]
    fn a_file_that_is_not_what_was_mapped_is_not_executed() {
        let path = std::env::current_exe().unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(MappedFile { inode, path: path.clone() }.open().is_some());
        assert!(MappedFile { inode: inode + 1, path: path.clone() }.open().is_none());
        assert!(MappedFile { inode, path: path.join("gone") }.open().is_none());
        assert!(matches!(Program::find(), Ok(Program::Executed)));
    }
}
