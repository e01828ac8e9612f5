//! `Backtrace`: where a child crashed or panicked.

#[cfg(feature = "backtrace")]
mod symbols;
#[cfg(feature = "backtrace")]
mod unwind;

use std::fmt;
use std::path::Path;

use super::crash_report::Report;
use super::display::signal_name;

/// Where a child crashed or panicked: [`Error::backtrace`](super::Error::backtrace).
///
/// Its text has a frame a line, as the standard library's. Of a crash it begins with the signal and the address
/// that could not be accessed, which are there even if the stack is destroyed.
#[derive(Clone, Debug)]
pub struct Backtrace {
    /// The signal and the address of a crash.
    fault: Option<(i32, Option<u64>)>,
    frames: Vec<Frame>,
    /// The text of a panic's backtrace.
    text: Option<String>,
}

/// A function call of a [`Backtrace`], an inlined one too.
#[derive(Clone, Debug)]
pub struct Frame {
    address: u64,
    module: Option<(String, u64)>,
    function: Option<String>,
    file: Option<String>,
    line: Option<u32>,
}

impl Backtrace {
    /// The functions that were running, the innermost first. Empty for a panic, whose text is that of the
    /// standard library.
    ///
    /// Without the feature `backtrace` it is the faulting instruction alone, and has no function.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The address that could not be read, written or executed. `None` if the signal was sent, as by
    /// `abort`, and for a panic; also for an address that no memory can have, which the kernel does not tell on
    /// x86.
    pub fn fault_address(&self) -> Option<u64> {
        self.fault?.1
    }

    pub(super) fn of_panic(text: &str) -> Self {
        Self { fault: None, frames: Vec::new(), text: Some(text.to_owned()) }
    }

    pub(super) fn of_crash(report: &Report) -> Self {
        Self { fault: Some((report.signal, report.address)), frames: frames(report), text: None }
    }
}

#[cfg(feature = "backtrace")]
fn frames(report: &Report) -> Vec<Frame> {
    let mut files = symbols::Files::default();
    let addresses = unwind::addresses(report, &mut files);
    symbols::frames(report, &addresses, &mut files)
}

#[cfg(not(feature = "backtrace"))]
fn frames(report: &Report) -> Vec<Frame> {
    vec![Frame::new(report, report.instruction())]
}

impl Frame {
    /// A frame of which only the place is known.
    fn new(report: &Report, address: u64) -> Self {
        let module = report.place(address).map(|(mapping, offset)| (mapping.path.clone(), offset));
        Self { address, module, function: None, file: None, line: None }
    }

    /// The address of the instruction in the child.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The file that holds the code: the executable or a library.
    pub fn module(&self) -> Option<&Path> {
        self.module.as_ref().map(|(path, _)| Path::new(path))
    }

    /// The function's name, if the file has symbols.
    pub fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }

    /// The source file, if there is debug information.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref().map(Path::new)
    }

    /// The line in it, counted from 1.
    pub fn line(&self) -> Option<u32> {
        self.line
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text.trim_end());
        }
        if let Some((signal, _)) = self.fault {
            f.write_str(&signal_name(signal))?;
        }
        if let Some(address) = self.fault_address() {
            write!(f, " at address {address:#x}")?;
        }
        for (depth, frame) in self.frames.iter().enumerate() {
            write!(f, "\n{depth:4}: {frame}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.function, &self.module) {
            (Some(function), _) => f.write_str(function)?,
            (None, Some((path, offset))) => write!(f, "{path}+{offset:#x}")?,
            (None, None) => write!(f, "{:#x}", self.address)?,
        }
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "\n             at {file}:{line}"),
            (Some(file), None) => write!(f, "\n             at {file}"),
            (None, _) => Ok(()),
        }
    }
}
