//! The executable and the libraries of a crashed child: functions, files and lines of addresses.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::rc::Rc;

use addr2line::Context;
use gimli::{Dwarf, EndianSlice, NativeEndian};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use super::Frame;
use crate::error::crash_report::Report;

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// The files that were read. Each stays in memory until the backtrace is made.
#[derive(Default)]
pub(super) struct Files {
    files: BTreeMap<String, Option<Rc<File>>>,
    /// The bytes of all of them.
    bytes: u64,
}

pub(super) struct File(Vec<u8>);

/// No more bytes are read than these: a child may name any files.
const MAX_BYTES: u64 = 4 << 30;

impl Files {
    /// The file at a path, if it is one that can be understood. The child has given the path, so what is no
    /// regular file is not opened.
    pub(super) fn file(&mut self, path: &str) -> Option<Rc<File>> {
        let bytes = &mut self.bytes;
        let read = || {
            let own = fs::read_link("/proc/self/exe").ok();
            // Whatever has become of its name since it was started.
            let is_own = own.is_some_and(|own| own.as_os_str() == path);
            let file = read(if is_own { "/proc/self/exe" } else { path }, MAX_BYTES.saturating_sub(*bytes))?;
            *bytes += file.len() as u64;
            object::File::parse(&file[..]).is_ok().then(|| Rc::new(File(file)))
        };
        self.files.entry(path.to_owned()).or_insert_with(read).clone()
    }
}

/// A regular file of at most `most` bytes. Those of `/proc` have no length, and some have no end.
fn read(path: &str, most: u64) -> Option<Vec<u8>> {
    let length = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).ok().filter(|_| length <= most)?).ok()?;
    fs::File::open(path).ok()?.take(length).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

impl File {
    pub(super) fn object(&self) -> Option<object::File<'_>> {
        object::File::parse(&self.0[..]).ok()
    }
}

/// The functions at the addresses, and those into which they were inlined. All addresses but the first are
/// return addresses, and so after the call.
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
        let place = |(depth, offset)| virtual_address(&object, offset).map(|address| (depth, address));
        let places: Vec<_> = places.into_iter().filter_map(place).collect();
        let debug = debug_information(&object);
        for &(depth, address) in &places {
            let Some(unknown) = frames[depth].first() else { continue };
            let found = debug.as_ref().and_then(|debug| debug_frames(debug, address, unknown));
            frames[depth] = found.filter(|found| !found.is_empty()).unwrap_or_else(|| frames[depth].clone());
        }
        name_by_symbols(&object, &places, &mut frames);
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

fn debug_information<'a>(object: &object::File<'a>) -> Option<Context<Bytes<'a>>> {
    let section = |id: gimli::SectionId| {
        let bytes = object.section_by_name(id.name()).and_then(|section| section.data().ok());
        Ok::<_, gimli::Error>(EndianSlice::new(bytes.unwrap_or_default(), NativeEndian))
    };
    Dwarf::load(section).and_then(Context::from_dwarf).ok()
}

/// Empty if the debug information does not know the address.
fn debug_frames(debug: &Context<Bytes<'_>>, address: u64, unknown: &Frame) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut found = debug.find_frames(address).skip_all_loads().ok()?;
    while let Ok(Some(frame)) = found.next() {
        let function = frame.function.and_then(|name| name.demangle().ok().map(std::borrow::Cow::into_owned));
        let (file, line) = frame.location.map_or((None, None), |place| (place.file, place.line));
        frames.push(Frame { function, file: file.map(str::to_owned), line, ..unknown.clone() });
    }
    Some(frames)
}

/// Names the functions that the debug information does not, by the symbol table. Reads the table once, and
/// does not sort it: that of a large program has some hundred thousand symbols.
fn name_by_symbols(object: &object::File<'_>, places: &[(usize, u64)], frames: &mut [Vec<Frame>]) {
    let is_unnamed = |depth: usize| frames[depth].last().is_some_and(|frame| frame.function.is_none());
    let mut wanted: Vec<_> =
        places.iter().filter(|place| is_unnamed(place.0)).map(|&at| (at, None)).collect();
    if wanted.is_empty() {
        return;
    }
    for symbol in object.symbols() {
        let start = symbol.address();
        for ((_, address), nearest) in &mut wanted {
            let is_nearer = nearest.is_none_or(|(before, _)| before <= start);
            if start <= *address && is_nearer && symbol.is_definition() {
                *nearest = Some((start, symbol.index()));
            }
        }
    }
    for ((depth, _), nearest) in wanted {
        let symbol = nearest.and_then(|(_, index)| object.symbol_by_index(index).ok());
        let name = symbol.and_then(|symbol| symbol.name().ok()).filter(|name| !name.is_empty());
        if let Some(frame) = frames[depth].last_mut() {
            frame.function = name.map(|name| addr2line::demangle_auto(name.into(), None).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child names the files of its mappings. The one of `/proc` has 256 GiB.
    #[test]
    fn a_file_without_a_length_or_beyond_the_budget_is_not_read() {
        let mut files = Files::default();
        assert!(files.file("/proc/self/pagemap").is_none());
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        files.bytes = MAX_BYTES;
        assert!(files.file(own).is_none());
        assert!(Files::default().file(own).is_some());
    }
}
