//! The executable and the libraries of a crashed child: functions, files and lines of addresses.

use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;

use addr2line::Context;
use gimli::{Dwarf, EndianSlice, NativeEndian};
use object::{Object, ObjectSection, ObjectSegment};

use super::Frame;
use crate::error::crash::Report;

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// The files that were read. Each stays in memory until the backtrace is made.
#[derive(Default)]
pub(super) struct Files(BTreeMap<String, Option<Rc<File>>>);

pub(super) struct File(Vec<u8>);

impl Files {
    /// The file at a path, if it is one that can be understood. The child has given the path, so what is no
    /// regular file is not opened.
    pub(super) fn file(&mut self, path: &str) -> Option<Rc<File>> {
        let read = || {
            let own = fs::read_link("/proc/self/exe").ok();
            // Whatever has become of its name since it was started.
            let is_own = own.is_some_and(|own| own.as_os_str() == path);
            let path = if is_own { "/proc/self/exe" } else { path };
            let bytes =
                fs::metadata(path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::read(path).ok())?;
            object::File::parse(&bytes[..]).is_ok().then(|| Rc::new(File(bytes)))
        };
        self.0.entry(path.to_owned()).or_insert_with(read).clone()
    }
}

impl File {
    pub(super) fn object(&self) -> Option<object::File<'_>> {
        object::File::parse(&self.0[..]).ok()
    }
}

/// The functions at the addresses, and those into which they were inlined. All addresses but the first are
/// return addresses, and so behind the call.
pub(super) fn frames(report: &Report, addresses: &[u64], files: &mut Files) -> Vec<Frame> {
    let mut frames: Vec<Vec<Frame>> = addresses.iter().map(|&at| vec![Frame::new(report, at)]).collect();
    let mut by_file: BTreeMap<&str, Vec<(usize, u64)>> = BTreeMap::new();
    for (depth, &address) in addresses.iter().enumerate() {
        if let Some((mapping, offset)) = report.place(address.saturating_sub(u64::from(depth > 0))) {
            by_file.entry(&mapping.path).or_default().push((depth, offset));
        }
    }
    for (path, places) in by_file {
        let Some(file) = files.file(path) else { continue };
        let Some(object) = file.object() else { continue };
        let symbols = Symbols::new(&object);
        for (depth, offset) in places {
            let Some(unknown) = frames[depth].first().cloned() else { continue };
            let found = virtual_address(&object, offset).map(|address| symbols.frames(address, &unknown));
            if let Some(found) = found.filter(|found| !found.is_empty()) {
                frames[depth] = found;
            }
        }
    }
    frames.into_iter().flatten().collect()
}

/// The address in the file's own numbering of what is at an offset in the file.
pub(super) fn virtual_address(object: &object::File<'_>, offset: u64) -> Option<u64> {
    object.segments().find_map(|segment| {
        let (start, size) = segment.file_range();
        let inside = offset.checked_sub(start).filter(|&inside| inside < size)?;
        segment.address().checked_add(inside)
    })
}

/// The debug information and the symbol table of a file.
struct Symbols<'a> {
    debug: Option<Context<Bytes<'a>>>,
    table: object::SymbolMap<object::SymbolMapName<'a>>,
}

impl<'a> Symbols<'a> {
    fn new(object: &object::File<'a>) -> Self {
        let section = |id: gimli::SectionId| {
            let bytes = object.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok::<_, gimli::Error>(EndianSlice::new(bytes.unwrap_or_default(), NativeEndian))
        };
        let debug = Dwarf::load(section).and_then(Context::from_dwarf).ok();
        Self { debug, table: object.symbol_map() }
    }

    /// Empty if the file does not know the address.
    fn frames(&self, address: u64, unknown: &Frame) -> Vec<Frame> {
        let mut frames = self.debug_frames(address, unknown).unwrap_or_default();
        if let Some(outermost) = frames.last_mut().filter(|frame| frame.function.is_none()) {
            outermost.function = self.symbol(address);
        } else if frames.is_empty() {
            let function = self.symbol(address);
            frames.extend(function.map(|name| Frame { function: Some(name), ..unknown.clone() }));
        }
        frames
    }

    fn debug_frames(&self, address: u64, unknown: &Frame) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut found = self.debug.as_ref()?.find_frames(address).skip_all_loads().ok()?;
        while let Ok(Some(frame)) = found.next() {
            let function =
                frame.function.and_then(|name| name.demangle().ok().map(std::borrow::Cow::into_owned));
            let (file, line) = frame.location.map_or((None, None), |place| (place.file, place.line));
            frames.push(Frame { function, file: file.map(str::to_owned), line, ..unknown.clone() });
        }
        Some(frames)
    }

    fn symbol(&self, address: u64) -> Option<String> {
        let name = self.table.before(address)?.name();
        Some(addr2line::demangle_auto(name.into(), None).into_owned())
    }
}
