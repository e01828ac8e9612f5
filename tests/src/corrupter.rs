//! Overwriting the memory that this process shares with others, as a task that writes out of bounds can.
//!
//! It goes through `/proc/self/mem`, where it needs no unsafe code.

use std::fs::{File, OpenOptions, read_to_string};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// Memory that this process can write, and others have too.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub start: u64,
    pub length: u64,
}

/// All mappings that the library shares with other processes.
pub fn mappings() -> Vec<Mapping> {
    let maps = read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains(" rw-s ") && line.contains("memfd:multiproc"));
    shared.map(mapping).collect()
}

fn mapping(line: &str) -> Mapping {
    let range = line.split(' ').next().unwrap();
    let mut ends = range.split('-').map(|end| u64::from_str_radix(end, 16).unwrap());
    let (start, end) = (ends.next().unwrap(), ends.next().unwrap());
    Mapping { start, length: end - start }
}

/// Numbers that a seed determines.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ self.0 >> 29;
        mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 32
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// Where a [`Corrupter`] writes.
#[derive(Clone, Copy, Debug)]
pub enum Where {
    /// The first bytes of each mapping, this many: there lie the synchronisation words.
    Heads(u64),
    /// The last bytes of each mapping, this many: there lie the slots of locks and queues.
    Tails(u64),
    Anywhere,
}

/// Writes random words at random offsets of some mappings.
#[derive(Debug)]
pub struct Corrupter {
    memory: File,
    mappings: Vec<Mapping>,
    random: Random,
}

impl Corrupter {
    pub fn new(mappings: Vec<Mapping>, seed: u64) -> Self {
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap();
        Self { memory, mappings, random: Random::new(seed) }
    }

    /// Overwrites the word at this byte of each mapping.
    pub fn overwrite(&self, offset: u64, word: u32) {
        for mapping in self.mappings.iter().filter(|mapping| offset + 4 <= mapping.length) {
            let _ = self.memory.write_all_at(&word.to_ne_bytes(), mapping.start + offset);
        }
    }

    /// Overwrites a word, if there is any.
    pub fn write(&mut self, offset: Where) {
        if self.mappings.is_empty() {
            return;
        }
        let mapping = self.mappings[usize::try_from(self.random.below(self.mappings.len() as u64)).unwrap()];
        let (start, within) = match offset {
            Where::Heads(bytes) => (0, bytes.min(mapping.length)),
            Where::Tails(bytes) => (mapping.length.saturating_sub(bytes), bytes.min(mapping.length)),
            Where::Anywhere => (0, mapping.length),
        };
        let at = mapping.start + start + self.random.below(within / 4) * 4;
        let mut old = [0; 4];
        if self.memory.read_exact_at(&mut old, at).is_ok() {
            let word = self.word(u32::from_ne_bytes(old));
            let _ = self.memory.write_all_at(&word.to_ne_bytes(), at); // it may be unmapped by now
        }
    }

    /// Overwrites words for this time.
    pub fn write_for(&mut self, offset: Where, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            (0..20).for_each(|_| self.write(offset));
            if self.random.below(4) == 0 {
                thread::yield_now();
            }
        }
    }

    /// A value near the old word, or far from it.
    #[allow(clippy::cast_possible_truncation)] // that is the purpose
    fn word(&mut self, old: u32) -> u32 {
        let random = self.random.number();
        match random >> 32 & 7 {
            0 => 0,
            1 => 1,
            2 => u32::MAX,
            3 => random as u32,
            4 => random as u32 & 0xffff,
            5 => old ^ 1 << (random & 31),
            6 => old.wrapping_add(random as u32 & 7),
            _ => old.wrapping_sub(random as u32 & 7),
        }
    }
}
