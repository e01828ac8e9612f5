//! Which expected line stands for which line of the output.

use super::expectation::{Line, LineOrder};

/// The line of the output for each expected one, if every line has its own and all stand where they may.
///
/// A line with a placeholder can fit several lines, so taking the first that fits would refuse good
/// outputs: the floating lines are tried wherever they fit, and each group is paired as a whole.
pub fn arrange(lines: &[Line], output: &[&str]) -> Option<Vec<usize>> {
    if lines.len() != output.len() {
        return None;
    }
    let (floating, others): (Vec<_>, Vec<_>) =
        (0..lines.len()).partition(|&line| lines[line].order == LineOrder::Anywhere);
    float(&floating, &others, lines, output, &mut vec![None; output.len()])
}

/// The most pairs of an expected line and a line of the output that can be made when the order is of no
/// concern: for each expected line its partner, if it has one.
pub fn pair(lines: &[&Line], output: &[&str]) -> Vec<Option<usize>> {
    let fits: Vec<Vec<bool>> =
        lines.iter().map(|line| output.iter().map(|text| line.pattern.fits(text)).collect()).collect();
    let mut taken_by = vec![None; output.len()];
    for line in 0..lines.len() {
        find_partner(line, &fits, &mut taken_by, &mut vec![false; output.len()]);
    }
    let mut partners = vec![None; lines.len()];
    for (text, line) in taken_by.into_iter().enumerate() {
        if let Some(line) = line {
            partners[line] = Some(text);
        }
    }
    partners
}

/// Tries each floating line wherever it fits, until the others fit what is left over.
fn float(
    floating: &[usize],
    others: &[usize],
    lines: &[Line],
    output: &[&str],
    taken_by: &mut Vec<Option<usize>>,
) -> Option<Vec<usize>> {
    let Some((&line, floating)) = floating.split_first() else {
        return in_turn(others, lines, output, taken_by);
    };
    (0..output.len()).find_map(|text| {
        if taken_by[text].is_some() || !lines[line].pattern.fits(output[text]) {
            return None;
        }
        taken_by[text] = Some(line);
        let found = float(floating, others, lines, output, taken_by);
        taken_by[text] = None;
        found
    })
}

/// Gives the lines that do not float what is left of the output: each group takes as many lines of it as it
/// has itself.
fn in_turn(
    others: &[usize],
    lines: &[Line],
    output: &[&str],
    taken_by: &[Option<usize>],
) -> Option<Vec<usize>> {
    let mut found = vec![0; lines.len()];
    for (text, line) in taken_by.iter().enumerate() {
        if let Some(line) = line {
            found[*line] = text;
        }
    }
    let free: Vec<_> = (0..output.len()).filter(|&text| taken_by[text].is_none()).collect();
    let mut free = free.as_slice();
    for group in others.chunk_by(|&a, &b| lines[a].same_group(&lines[b])) {
        let (mine, rest) = free.split_at_checked(group.len())?;
        free = rest;
        let members: Vec<_> = group.iter().map(|&line| &lines[line]).collect();
        let texts: Vec<_> = mine.iter().map(|&text| output[text]).collect();
        for (&line, partner) in group.iter().zip(pair(&members, &texts)) {
            found[line] = mine[partner?];
        }
    }
    Some(found)
}

/// Finds a partner for `line`: a free one, or one with an owner that can take another.
fn find_partner(line: usize, fits: &[Vec<bool>], taken_by: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    let mine = |text: &usize| fits[line][*text];
    if let Some(text) = (0..taken_by.len()).filter(mine).find(|&text| taken_by[text].is_none()) {
        taken_by[text] = Some(line);
        return true;
    }
    for text in (0..taken_by.len()).filter(mine) {
        if let Some(owner) = taken_by[text]
            && !std::mem::replace(&mut tried[text], true)
            && find_partner(owner, fits, taken_by, tried)
        {
            taken_by[text] = Some(line);
            return true;
        }
    }
    false
}
