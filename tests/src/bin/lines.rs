//! A program whose children write lines to its standard output, all at once, and each at last a line without
//! its end.

#![allow(clippy::unwrap_used, reason = "a fixture ends where something does not go as it should")]

use multiproc::{Pool, Process};

/// Writes a hundred lines that consist of one letter, and are of many lengths.
fn write_lines(letter: char) {
    for number in 0..100 {
        println!("{}", letter.to_string().repeat(1 + (number * 73) % 1000));
    }
}

fn main() {
    multiproc::init();
    tests::watched("lines", || {
        let write_and_stop_short = |letter| {
            write_lines(letter);
            print!("[{letter}]");
        };
        let children: Vec<_> =
            ('a'..='h').map(|letter| Process::spawn(write_and_stop_short, (letter,)).unwrap()).collect();
        for child in children {
            child.join().unwrap();
        }
        let pool = Pool::new(4).unwrap();
        pool.map(write_lines, 'A'..='H').unwrap();
        pool.map(|letter| print!("[{letter}]"), 'A'..='H').unwrap();
        pool.terminate(); // what a task has written is out when the task has ended, however its worker ends
    });
}
