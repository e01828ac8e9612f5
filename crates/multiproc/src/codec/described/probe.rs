//! A search over a type's options, sequences and variants that makes up values and records which were tried.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use crate::codec::Error;

/// Beyond this number of parts in one value, options and sequences are empty where possible.
const LARGE: u32 = 2_000;

/// Encoded values without parts, by kind.
pub(super) type Examples = BTreeMap<Kind, Vec<Vec<u8>>>;

/// A visitor: the address of one of its functions, and the name of its type.
pub(super) type VisitorKey = (usize, &'static str);

/// The state of the search.
#[derive(Default)]
pub(super) struct Prober {
    /// The points at which the type branches, by visitor.
    points: BTreeMap<VisitorKey, ChoicePoint>,
    /// The points from which an untried branch can be reached.
    open: BTreeSet<VisitorKey>,
    /// The branches from the root to the current part of the value.
    stack: Vec<(VisitorKey, usize)>,
    /// All branches taken in this value.
    taken: Vec<(VisitorKey, usize)>,
    /// A variant that was named and whose content was not asked for yet.
    variant: Option<(VisitorKey, usize)>,
    /// Whether the type inspects the data.
    pub(super) inspects_data: bool,
    /// Whether there was a tuple struct, of whose fields a value can leave some out.
    has_unnamed: bool,
    /// In the last rounds, whether all fields of tuple structs are empty (`false`) or minimal (`true`).
    pub(super) tuple_fields: Option<bool>,
    round: u32,
    /// The number of parts made up, in all values.
    pub(super) leaves: u32,
    leaves_before: u32,
    last_leaf: Option<(Kind, &'static str)>,
    /// The number of the example that each visitor is given, from 1 on; 0 is made up.
    choices: BTreeMap<&'static str, usize>,
    examples: Option<Examples>,
}

/// The branches of a type at one point.
#[derive(Clone, Copy)]
pub(super) enum Branches {
    /// An option, sequence or map: empty or with one element. `is_unnamed`: it is a field of a tuple struct.
    Optional {
        is_unnamed: bool,
    },
    Variants(usize),
}

struct ChoicePoint {
    /// Whether branch 0 is the empty one, which need not be tried.
    is_optional: bool,
    branches: Vec<Branch>,
}

#[derive(Clone, Default)]
struct Branch {
    state: State,
    /// The points that follow it.
    next: BTreeSet<VisitorKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Untried,
    /// Its value was too deep.
    Postponed,
    Done,
    /// The type refuses it: a variant that it never reads, or an alias.
    Refused,
}

impl Prober {
    pub(super) fn begin(&mut self) {
        self.round += 1;
        self.stack.clear();
        self.taken.clear();
        self.variant = None;
        self.last_leaf = None;
        self.leaves_before = self.leaves;
        // The points with an untried branch, and all from which one of them can be reached.
        self.open =
            self.points.iter().filter(|(_, point)| point.is_untried()).map(|(&visitor, _)| visitor).collect();
        loop {
            let known = self.open.len();
            for (&visitor, point) in &self.points {
                if point.branches.iter().any(|branch| !branch.next.is_disjoint(&self.open)) {
                    self.open.insert(visitor);
                }
            }
            if self.open.len() == known {
                return;
            }
        }
    }

    /// Gives all branches of this value a state. Returns whether an untried branch is left.
    pub(super) fn settle(&mut self, state: State) -> bool {
        for (visitor, branch) in std::mem::take(&mut self.taken) {
            if let Some(branch) =
                self.points.get_mut(&visitor).and_then(|point| point.branches.get_mut(branch))
                && branch.state != State::Done
            {
                branch.state = state;
            }
        }
        self.points.values().any(ChoicePoint::is_untried)
    }

    /// Whether another value can be tried after the type has refused one.
    pub(super) fn goes_on_after(&mut self, error: &Error, examples: impl FnOnce() -> Examples) -> bool {
        if let Some((visitor, branch)) = self.variant {
            let branch = self.points.get_mut(&visitor).and_then(|point| point.branches.get_mut(branch));
            return branch.map(|branch| branch.state = State::Refused).is_some();
        }
        if error.is_too_deep() {
            let is_new = self.taken.iter().any(|&(visitor, branch)| {
                self.points.get(&visitor).is_some_and(|point| point.branches[branch].state == State::Untried)
            });
            self.settle(State::Postponed);
            return is_new;
        }
        let Some((kind, who)) = self.last_leaf else { return false };
        let examples = self.examples.get_or_insert_with(examples);
        let choice = self.choices.entry(who).or_default();
        *choice += 1;
        *choice <= examples.get(&kind).map_or(0, Vec::len)
    }

    /// Makes up a value without parts, for this visitor.
    pub(super) fn leaf(&mut self, kind: Kind, who: &'static str, is_unnamed: bool, out: &mut Vec<u8>) {
        self.leaves += 1;
        self.last_leaf = Some((kind, who));
        out.push(kind as u8);
        if let Some(tuple_fields) = self.tuple_fields.filter(|_| is_unnamed) {
            make_up_tuple_field(kind, tuple_fields, out);
            return;
        }
        let choice = self.choices.get(who).copied().unwrap_or_default();
        let examples = self.examples.as_ref().and_then(|examples| examples.get(&kind));
        match examples.and_then(|examples| examples.get(choice.checked_sub(1)?)) {
            Some(example) => out.extend_from_slice(example),
            None => make_up(kind, self.leaves + self.round, out),
        }
    }

    /// Records that the type inspects the data. Returns an error that ends this value.
    pub(super) fn inspects_data(&mut self) -> Error {
        self.inspects_data = true;
        Error::new("the type inspects the data")
    }

    /// Chooses a branch for this visitor: one that was not tried, or one that leads to an untried one.
    pub(super) fn choose(&mut self, visitor: VisitorKey, branches: Branches) -> Result<usize, Error> {
        let (branches, is_optional, is_unnamed) = match branches {
            Branches::Optional { is_unnamed } => (2, true, is_unnamed),
            Branches::Variants(count) => (count, false, false),
        };
        self.leaves += 1;
        if let Some((above, branch)) = self.stack.last()
            && let Some(point) = self.points.get_mut(above)
        {
            point.branches[*branch].next.insert(visitor);
        }
        let point = self
            .points
            .entry(visitor)
            .or_insert_with(|| ChoicePoint { is_optional, branches: vec![Branch::default(); branches] });
        let is_inside = |branch: usize| self.stack.contains(&(visitor, branch));
        let is_within_itself = (0..branches).any(is_inside);
        let is_large = self.leaves - self.leaves_before > LARGE;
        let find = |what: &dyn Fn(usize, &Branch) -> bool| {
            point
                .branches
                .iter()
                .enumerate()
                .find(|(number, branch)| what(*number, branch))
                .map(|(number, _)| number)
        };
        let done = find(&|number, branch| branch.state == State::Done && !is_inside(number));
        let untried = find(&|number, branch| branch.state == State::Untried && !is_inside(number));
        let postponed = find(&|number, branch| branch.state == State::Postponed && !is_inside(number));
        let branch = if point.is_optional && is_unnamed && self.tuple_fields == Some(false) {
            Some(0)
        } else if point.is_optional {
            Some(usize::from(!is_within_itself && (!is_large || point.is_untried())))
        } else if is_within_itself {
            done.or(untried).or(postponed)
        } else {
            let leads_on =
                find(&|_, branch| branch.state != State::Refused && !branch.next.is_disjoint(&self.open));
            untried.or(leads_on).or(postponed).or(done)
        };
        let branch = branch.ok_or_else(|| Error::new("it has no end"))?;
        self.stack.push((visitor, branch));
        self.taken.push((visitor, branch));
        if !point.is_optional {
            self.variant = Some((visitor, branch));
        }
        Ok(branch)
    }

    pub(super) fn chosen(&mut self) {
        self.stack.pop();
    }

    pub(super) fn unnamed(&mut self, length: usize) {
        self.has_unnamed |= length > 1;
    }

    /// Whether no more values are needed; otherwise goes on to the next kind of [tuple
    /// fields](Self::tuple_fields).
    pub(super) fn has_seen_all(&mut self) -> bool {
        if !self.has_unnamed || self.tuple_fields == Some(true) {
            return true;
        }
        self.tuple_fields = Some(self.tuple_fields.is_some());
        false
    }

    pub(super) fn variant_is_read(&mut self) {
        self.variant = None;
    }
}

impl ChoicePoint {
    fn is_untried(&self) -> bool {
        let first = usize::from(self.is_optional);
        self.branches
            .iter()
            .skip(first)
            .any(|branch| matches!(branch.state, State::Untried | State::Postponed))
    }
}

fn make_up(kind: Kind, count: u32, out: &mut Vec<u8>) {
    let byte = 33 + (count % 64) as u8;
    macro_rules! number {
        ($number:expr) => {
            out.extend_from_slice(&$number.to_ne_bytes())
        };
    }
    match kind {
        Kind::Bool => out.push((count % 2) as u8),
        Kind::U8 | Kind::I8 => out.push(byte),
        Kind::U16 | Kind::I16 => number!((30_000 + u16::from(byte))),
        Kind::U32 | Kind::I32 => number!((50_000_000 + count)),
        Kind::U64 | Kind::I64 => number!((50_000_000 + u64::from(count))),
        Kind::U128 | Kind::I128 => number!((50_000_000 + u128::from(count))),
        Kind::F32 => number!((1.0 / f32::from(byte))),
        Kind::F64 => number!((1.0 / f64::from(byte))),
        Kind::Char => number!(u32::from(byte)),
        Kind::Str | Kind::Bytes => {
            let text = format!("/dev/null/{count}");
            number!((text.len() as u64));
            out.extend_from_slice(text.as_bytes());
        }
        _ => {}
    }
}

/// An empty value (all bytes 0), or the smallest that is not empty.
fn make_up_tuple_field(kind: Kind, is_more: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + kind.size(), 0);
    if let (true, Some(first)) = (is_more, out.get_mut(start)) {
        *first = 1;
        out.extend(kind.is_text().then_some(b'm'));
    }
}
