//! Unwinds the stack of a crashed child, from a copy of its top and the unwind tables of the files that were
//! mapped.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Register, RegisterRule,
    UnwindContext, UnwindSection,
};
use object::{Object, ObjectSection};

use super::symbols::Files;
use crate::error::crash_report::{REGISTERS, Report, STACK_POINTER};

/// The most frames, so that a recursion does not fill the screen.
const MAX_FRAMES: usize = 100;
/// DWARF's number of the register that holds the return address, and the index of the program counter.
const RETURN_ADDRESS: usize = if cfg!(target_arch = "x86_64") { 16 } else { 30 };
const PROGRAM_COUNTER: usize = REGISTERS - 1;

type Registers = [u64; REGISTERS];

/// The address of the instruction, and the return addresses on the stack.
pub(super) fn addresses(report: &Report, files: &mut Files) -> Vec<u64> {
    let Ok(mut registers) = Registers::try_from(&report.registers[..]) else { return Vec::new() };
    let mut addresses = vec![registers[PROGRAM_COUNTER]];
    while addresses.len() < MAX_FRAMES {
        let is_first = addresses.len() == 1;
        let caller = caller(report, files, &registers, is_first)
            .or_else(|| is_first.then(|| caller_of_no_function(report, &registers)).flatten());
        match caller {
            Some(next) if next[PROGRAM_COUNTER] != 0 && is_further(&registers, &next, is_first) => {
                registers = next;
            }
            _ => break,
        }
        addresses.push(registers[PROGRAM_COUNTER]);
    }
    addresses
}

/// Whether the frame is the other's caller. Otherwise damaged memory could lead in a circle.
fn is_further(callee: &Registers, caller: &Registers, is_first: bool) -> bool {
    let (callee, caller) = (callee[STACK_POINTER], caller[STACK_POINTER]);
    caller > callee || is_first && caller == callee
}

/// The registers as they will be in the caller.
fn caller(report: &Report, files: &mut Files, registers: &Registers, is_first: bool) -> Option<Registers> {
    let address = registers[PROGRAM_COUNTER].checked_sub(u64::from(!is_first))?;
    let (mapping, offset) = report.place(address)?;
    let file = files.file(&mapping.path)?;
    let file = file.object()?;
    let address = super::symbols::virtual_address(&file, offset)?;
    let start = |name| file.section_by_name(name).map(|section| section.address());
    let bytes = |name| EndianSlice::new(file.section_by_name(name)?.data().ok()?, NativeEndian).into();
    let mut bases = BaseAddresses::default().set_eh_frame(start(".eh_frame")?);
    bases = bases.set_text(start(".text").unwrap_or(0)).set_got(start(".got").unwrap_or(0));
    let slice: Option<EndianSlice<'_, NativeEndian>> = bytes(".eh_frame");
    let tables = EhFrame::from(slice?);
    let mut context = UnwindContext::new();
    let header = start(".eh_frame_hdr").zip(bytes(".eh_frame_hdr"));
    let row = if let Some((start, header)) = header {
        bases = bases.set_eh_frame_hdr(start);
        let header = EhFrameHdr::from(header).parse(&bases, 8).ok()?;
        let table = header.table()?;
        let fde = table.fde_for_address(&tables, &bases, address, EhFrame::cie_from_offset).ok()?;
        fde.unwind_info_for_address(&tables, &bases, &mut context, address).ok()?.clone()
    } else {
        tables.unwind_info_for_address(&bases, &mut context, address, EhFrame::cie_from_offset).ok()?.clone()
    };
    let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
    let frame = registers.get(usize::from(register.0))?.wrapping_add_signed(*offset);
    let mut next = *registers;
    for (number, value) in (0_u16..).zip(&mut next) {
        match row.register(Register(number)) {
            Some(RegisterRule::Offset(offset)) => *value = read(report, frame.wrapping_add_signed(offset))?,
            Some(RegisterRule::ValOffset(offset)) => *value = frame.wrapping_add_signed(offset),
            Some(RegisterRule::Register(other)) => *value = *registers.get(usize::from(other.0))?,
            Some(RegisterRule::Undefined) if usize::from(number) == RETURN_ADDRESS => return None,
            _ => {}
        }
    }
    next[PROGRAM_COUNTER] = next[RETURN_ADDRESS];
    next[STACK_POINTER] = frame;
    Some(next)
}

/// The caller of an address where there is no code, such as a null pointer to a function.
fn caller_of_no_function(report: &Report, registers: &Registers) -> Option<Registers> {
    if report.place(registers[PROGRAM_COUNTER]).is_some() {
        return None;
    }
    let mut next = *registers;
    if cfg!(target_arch = "x86_64") {
        next[PROGRAM_COUNTER] = read(report, registers[STACK_POINTER])?;
        next[STACK_POINTER] = registers[STACK_POINTER].checked_add(8)?;
    } else {
        next[PROGRAM_COUNTER] = registers[RETURN_ADDRESS];
    }
    Some(next)
}

fn read(report: &Report, address: u64) -> Option<u64> {
    let at = usize::try_from(address.checked_sub(report.stack_start)?).ok()?;
    let bytes = report.stack.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}
