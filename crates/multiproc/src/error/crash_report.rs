//! What a child that crashed has left: its registers, the top of its stack, and where its code was mapped.

use serde_core::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::{Arc, OnceLock};

use super::Backtrace;
use crate::impl_serde::impl_serde;

/// The number of registers in a report, in DWARF's order, the program counter last.
pub(crate) const REGISTERS: usize = if cfg!(target_arch = "x86_64") { 17 } else { 33 };
/// DWARF's number of the stack pointer.
pub(crate) const STACK_POINTER: usize = if cfg!(target_arch = "x86_64") { 7 } else { 31 };
/// The first byte of the message, beside those of an outcome.
pub(crate) const CRASHED: u8 = 2;
/// The bytes of the message's first part: the kind, and words with the signal, whether there is an address, the
/// address, the start and length of the stack, and the registers.
const HEAD: usize = 7 + 8 * (5 + REGISTERS);

/// A report, and the backtrace when it is made. The copies of an error share both.
#[derive(Clone)]
pub(crate) struct Crash(Arc<(Report, OnceLock<Backtrace>)>);

#[derive(Clone)]
pub(crate) struct Report {
    /// The signal of the fault itself. After a stack overflow the standard library aborts.
    pub(crate) signal: i32,
    /// Which address could not be read, written or executed; `None` if the signal was sent.
    pub(crate) address: Option<u64>,
    pub(crate) registers: Vec<u64>,
    pub(crate) stack_start: u64,
    pub(crate) stack: Vec<u8>,
    mappings: Vec<Mapping>,
}

impl_serde!(struct Report { signal, address, registers, stack_start, stack, mappings });

/// A part of a file that was mapped as code.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    pub(crate) path: String,
}

impl_serde!(struct Mapping { start, end, offset, path });

impl Crash {
    /// Whether a death by this signal may be that of the fault.
    pub(crate) fn is_of(&self, signal: i32) -> bool {
        signal == self.signal || signal == nix::libc::SIGABRT
    }

    #[cfg(test)]
    pub(crate) fn of_signal(signal: i32) -> Self {
        let (registers, stack, mappings) = (Vec::new(), Vec::new(), Vec::new());
        Self::new(Report { signal, address: None, registers, stack_start: 0, stack, mappings })
    }

    pub(crate) fn new(report: Report) -> Self {
        Self(Arc::new((report, OnceLock::new())))
    }

    /// Where it crashed. The first call reads the executable and its libraries, which takes long if they are large.
    pub(super) fn backtrace(&self) -> &Backtrace {
        self.0.1.get_or_init(|| Backtrace::of_crash(&self.0.0))
    }
}

impl Serialize for Crash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Report::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Crash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Report::deserialize(deserializer).map(Self::new)
    }
}

impl std::ops::Deref for Crash {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.0.0
    }
}

/// Whether a message of a child is a report rather than an outcome.
pub(crate) fn is_report(message: &[u8]) -> bool {
    message.first() == Some(&CRASHED)
}

impl Crash {
    /// The report in a message, if it is one.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let (head, rest) = message.split_at_checked(HEAD).filter(|_| is_report(message))?;
        let words: Vec<u64> = head[7..].as_chunks().0.iter().copied().map(u64::from_ne_bytes).collect();
        let [signal, has_address, address, stack_start, stack_len, ref registers @ ..] = words[..] else {
            return None;
        };
        let (stack, mappings) = rest.split_at_checked(usize::try_from(stack_len).ok()?)?;
        let mappings = String::from_utf8_lossy(mappings);
        Some(Self::new(Report {
            signal: i32::try_from(signal).ok()?,
            address: (has_address != 0).then_some(address),
            registers: registers.to_vec(),
            stack_start,
            stack: stack.to_vec(),
            mappings: mappings.lines().filter_map(Mapping::parse).collect(),
        }))
    }
}

impl Report {
    /// The address of the instruction.
    #[cfg(not(feature = "backtrace"))]
    pub(crate) fn instruction(&self) -> u64 {
        self.registers.last().copied().unwrap_or(0)
    }

    /// The file that holds the code at an address, and the offset in it.
    pub(crate) fn place(&self, address: u64) -> Option<(&Mapping, u64)> {
        let mapping = self.mappings.iter().find(|map| (map.start..map.end).contains(&address))?;
        Some((mapping, (address - mapping.start).checked_add(mapping.offset)?))
    }
}

impl Mapping {
    /// A line of `/proc/PID/maps`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        let path = fields.nth(2)?.trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            start: number(start)?,
            end: number(end)?,
            offset: number(offset)?,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, cases};

    #[test]
    fn a_line_of_the_mappings_is_understood() {
        let line = "55d0a000-55d0b000 r-xp 00003000 fe:00 1234                       /bin/a program";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x55d0_a000, 0x55d0_b000, 0x3000));
        assert_eq!(mapping.path, "/bin/a program");
    }

    /// The backtrace of this function, from a file that is there for the first copy alone.
    #[cfg(feature = "backtrace")]
    #[test]
    fn the_copies_of_an_error_share_its_backtrace() {
        let program = std::env::current_exe().unwrap();
        let other_name = program.with_extension("other-name");
        std::fs::hard_link(&program, &other_name).unwrap();
        let instruction = the_copies_of_an_error_share_its_backtrace as fn() as usize as u64;
        let mut crash = Crash::of_signal(11);
        let report = &mut Arc::get_mut(&mut crash.0).unwrap().0;
        report.registers = vec![0; REGISTERS - 1];
        report.registers.push(instruction);
        let mappings = std::fs::read_to_string("/proc/self/maps").unwrap();
        report.mappings = mappings.lines().filter_map(Mapping::parse).collect();
        let code =
            report.mappings.iter_mut().find(|map| (map.start..map.end).contains(&instruction)).unwrap();
        code.path = other_name.to_str().unwrap().to_owned();
        let copy = crash.clone();
        let function = |crash: &Crash| crash.backtrace().frames()[0].function().map(str::to_owned);
        let first = function(&crash);
        std::fs::remove_file(&other_name).unwrap();
        assert!(first.as_ref().is_some_and(|name| name.contains("share_its_backtrace")), "{first:?}");
        assert_eq!(function(&copy), first);
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn any_bytes_are_a_report_or_none(mut bytes in any_bytes(600)) {
            bytes.splice(0..0, [CRASHED]);
            if let Some(crash) = Crash::decode(&bytes) {
                prop_assert!(!crash.backtrace().to_string().is_empty());
            }
        }
    }
}
