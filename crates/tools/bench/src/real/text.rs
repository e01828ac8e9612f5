//! Word count and JSON.

use std::collections::HashMap;

use anyhow::Result;
use serde::Deserialize;

use super::random::Random;
use crate::measure::Scale;
use crate::program::Wrong;
use crate::work::{check, real};

const TEXTS: usize = 400;
const VOCABULARY: usize = 30_000;
/// How many words the longest text has; the second has half as many, the third a third.
const LONGEST: usize = 500_000;

pub type Counts = HashMap<String, u64>;

/// How often each word was written.
pub struct Expected(Vec<u64>);

/// Texts in random order, with words as frequent as in a language (Zipf).
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the number of a word
pub fn texts(scale: Scale) -> (Vec<String>, Expected) {
    let mut random = Random(1);
    let mut counts = vec![0; VOCABULARY];
    let longest = scale.times(LONGEST);
    let mut texts: Vec<String> = (1..=TEXTS)
        .map(|rank| {
            let mut text = String::new();
            for _ in 0..longest / rank {
                let number = real(VOCABULARY).powf(random.real()) as usize - 1;
                counts[number] += 1;
                text.push_str(&word(number));
                text.push(if random.below(12) == 0 { '\n' } else { ' ' });
            }
            text
        })
        .collect();
    for last in (1..TEXTS).rev() {
        texts.swap(last, random.below(last + 1));
    }
    (texts, Expected(counts))
}

/// The first words are the shortest.
fn word(mut number: usize) -> String {
    let mut word = String::new();
    loop {
        word.push_str(["ka", "to", "mi", "re", "su", "no", "ha", "ve", "li", "ro"][number % 10]);
        number /= 10;
        if number == 0 {
            return word;
        }
    }
}

pub fn count_words(text: &str) -> Counts {
    let mut counts = Counts::new();
    for word in text.split_whitespace() {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(counts.insert(word.to_owned(), 1)),
        }
    }
    counts
}

pub fn merge(into: &mut Counts, from: Counts) {
    for (word, count) in from {
        *into.entry(word).or_default() += count;
    }
}

impl Expected {
    pub fn check(&self, counts: &Counts) -> Result<()> {
        let words = self.0.iter().filter(|&&count| count > 0).count();
        check("number of words", words as u64, counts.len() as u64)?;
        for (number, &count) in self.0.iter().enumerate() {
            let word = word(number);
            check(&format!("count of `{word}`"), count, counts.get(&word).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}

const LINES: usize = 300_000;

pub fn json_lines(scale: Scale) -> Vec<String> {
    let mut random = Random(2);
    let line = |id: usize| {
        let tags = ["\"new\"", "\"new\",\"sale\"", "\"gift\""][random.below(3)];
        let amount = random.below(10_000);
        format!(r#"{{"id":{id},"user":"user{}","tags":[{tags}],"amount":{amount},"open":true}}"#, id % 977)
    };
    (0..scale.times(LINES)).map(line).collect()
}

#[derive(Deserialize)]
struct Record {
    id: u64,
    user: String,
    tags: Vec<String>,
    amount: u64,
    open: bool,
}

/// A number that every field has a part in; 0 if the line is none.
pub fn parse(line: &str) -> u64 {
    let number = |record: Record| {
        let words = record.user.len() + record.tags.iter().map(String::len).sum::<usize>();
        record.id + record.amount + words as u64 + u64::from(record.open)
    };
    serde_json::from_str(line).map_or(0, number)
}

/// Whether these are the numbers of the lines. Every 97th is computed again, and none may be missing.
pub fn check_json(scale: Scale, numbers: &[u64]) -> Result<()> {
    let lines = json_lines(scale);
    check("number of results", lines.len() as u64, numbers.len() as u64)?;
    for (line, &number) in lines.iter().zip(numbers).step_by(97) {
        check(&format!("number of `{line}`"), parse(line), number)?;
    }
    if numbers.contains(&0) {
        return Err(Wrong("a line was not parsed".to_owned()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Scale = Scale { quick: true };

    #[test]
    fn counted_words_are_those_that_were_written() {
        let (texts, expected) = texts(QUICK);
        assert_eq!(texts.len(), TEXTS);
        let mut counts = Counts::new();
        for text in &texts {
            merge(&mut counts, count_words(text));
        }
        expected.check(&counts).unwrap();
        *counts.get_mut("ka").unwrap() -= 1;
        assert!(expected.check(&counts).is_err());
    }

    #[test]
    fn a_lost_line_is_noticed() {
        let mut numbers: Vec<u64> = json_lines(QUICK).iter().map(|line| parse(line)).collect();
        check_json(QUICK, &numbers).unwrap();
        numbers[5] = parse("{");
        assert!(check_json(QUICK, &numbers).is_err());
    }
}
