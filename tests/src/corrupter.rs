//! Overwriting the memory that this process shares with others, as a task that writes out of bounds can.
//!
//! It goes through `/proc/self/mem`, where it needs no unsafe code.

use std::fs::{File, OpenOptions, read_dir, read_to_string};
use std::os::unix::fs::FileExt;
use std::os::unix::process::parent_id;
use std::thread;
use std::time::{Duration, Instant};

/// Memory that this process can write, and others have too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// How the library's locks name a thread that lives, by its number or that of its process: the number in the low
/// half, and in the high half the start time and a hash of the number. `None` when it has ended.
#[allow(clippy::cast_possible_truncation)] // as in the library
pub fn identity(thread: u32) -> Option<u64> {
    let stat = read_to_string(format!("/proc/{thread}/stat")).ok()?;
    let start: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let start = if start == 0 { u32::MAX - 1 } else { start as u32 };
    let salted = start.wrapping_add(thread.wrapping_mul(2_654_435_761));
    Some(u64::from(salted) << 32 | u64::from(thread))
}

/// The identities of all threads of this process, of its parent, and of process 1.
pub fn living_threads() -> Vec<u64> {
    let tasks = read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name());
    let own = tasks.map(|name| name.to_str().unwrap().parse().unwrap());
    own.chain([parent_id(), 1]).filter_map(identity).collect()
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
    /// Where a word among the first bytes would point to as the position of a ring: there lie the frames that
    /// are written and read next.
    Frames,
    Anywhere,
}

/// Writes random words at random offsets of some mappings.
#[derive(Debug)]
pub struct Corrupter {
    memory: File,
    mappings: Vec<Mapping>,
    random: Random,
    /// What it writes instead of random words, if there are any.
    identities: Vec<u64>,
}

/// The bit that a lock's word has beside the holder when threads wait.
const WAITERS: u64 = 1 << 31;
/// The synchronisation words lie in the first bytes of a mapping.
const WORDS: u64 = 1024;
const PAGE: u64 = 4096;

impl Corrupter {
    pub fn new(mappings: Vec<Mapping>, seed: u64) -> Self {
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap();
        Self { memory, mappings, random: Random::new(seed), identities: Vec::new() }
    }

    /// Has it write only the identities of these threads, as if they held every lock and slot.
    #[must_use]
    pub fn forging(self, identities: Vec<u64>) -> Self {
        Self { identities, ..self }
    }

    /// Overwrites the word at this byte of each mapping.
    pub fn overwrite(&self, offset: u64, word: u32) {
        for mapping in self.mappings.iter().filter(|mapping| offset + 4 <= mapping.length) {
            let _ = self.memory.write_all_at(&word.to_ne_bytes(), mapping.start + offset);
        }
    }

    /// Writes the identity of a thread into this word of each mapping, as if it held the lock there.
    pub fn forge_holder(&self, offset: u64, identity: u64) {
        for mapping in self.mappings.iter().filter(|mapping| offset + 8 <= mapping.length) {
            self.memory.write_all_at(&identity.to_ne_bytes(), mapping.start + offset).unwrap();
        }
    }

    /// Overwrites a word, or two for an identity, if there is any.
    pub fn write(&mut self, offset: Where) {
        if self.mappings.is_empty() {
            return;
        }
        let mapping = self.mappings[usize::try_from(self.random.below(self.mappings.len() as u64)).unwrap()];
        let (start, within) = match offset {
            Where::Heads(bytes) => (0, bytes.min(mapping.length)),
            Where::Tails(bytes) => (mapping.length.saturating_sub(bytes), bytes.min(mapping.length)),
            Where::Frames => self.frames(mapping),
            Where::Anywhere => (0, mapping.length),
        };
        let at = mapping.start + start + self.random.below(within / 4) * 4;
        // It may be unmapped by now.
        if !self.identities.is_empty() {
            let identity = self.identity();
            let _ = self.memory.write_all_at(&identity.to_ne_bytes(), at & !7);
        } else if let Some(old) = self.read(at) {
            let word = self.word(old);
            let _ = self.memory.write_all_at(&word.to_ne_bytes(), at);
        }
    }

    fn read(&self, at: u64) -> Option<u32> {
        let mut word = [0; 4];
        self.memory.read_exact_at(&mut word, at).ok().map(|()| u32::from_ne_bytes(word))
    }

    /// One of the identities, perhaps as that of a holder for which others wait.
    fn identity(&mut self) -> u64 {
        let number = usize::try_from(self.random.below(self.identities.len() as u64)).unwrap();
        self.identities[number] | (self.random.below(2) * WAITERS)
    }

    /// The bytes around the place to which a word points: the first of them, and how many they are. A ring's size
    /// is a power of two. It lies at the end of its mapping; or there lie two of them, as in a worker's memory.
    fn frames(&mut self, mapping: Mapping) -> (u64, u64) {
        let words = WORDS.min(mapping.length) / 4;
        let any_word = |_| {
            let at = mapping.start + self.random.below(words) * 4;
            self.read(at).filter(|&word| word != 0)
        };
        let position = (0..50).find_map(any_word).unwrap_or(0);
        let rings = 1 << mapping.length.ilog2();
        let size = rings >> self.random.below(2);
        let place = mapping.length - rings + u64::from(position) % size;
        // The end of a mapping is up to a page after that of its ring.
        let start = place.saturating_sub(PAGE);
        (start, (2 * PAGE).min(mapping.length - start))
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
