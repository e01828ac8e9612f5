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
    has_tuple_struct: bool,
    pub(super) tuple_fields: TupleFields,
    round: u32,
    /// The number of parts made up, in all values.
    pub(super) parts: u32,
    /// The same, when this value began.
    parts_before: u32,
    last_leaf: Option<(Kind, &'static str)>,
    /// The number of the example that each visitor is given, from 1 on; 0 is made up.
    choices: BTreeMap<&'static str, usize>,
    examples: Option<Examples>,
}

/// What the fields of tuple structs are given. A type may leave a field out if it is empty, or if it is not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum TupleFields {
    #[default]
    MadeUp,
    Empty,
    Minimal,
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
        self.parts_before = self.parts;
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
    pub(super) fn mark_branches(&mut self, state: State) -> bool {
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
            self.mark_branches(State::Postponed);
            return is_new;
        }
        let Some((kind, visitor)) = self.last_leaf else { return false };
        let examples = self.examples.get_or_insert_with(examples);
        let choice = self.choices.entry(visitor).or_default();
        *choice += 1;
        *choice <= examples.get(&kind).map_or(0, Vec::len)
    }

    /// Makes up a value without parts, for this visitor.
    pub(super) fn leaf(&mut self, kind: Kind, visitor: &'static str, is_unnamed: bool, out: &mut Vec<u8>) {
        self.parts += 1;
        self.last_leaf = Some((kind, visitor));
        out.push(kind as u8);
        if is_unnamed && self.tuple_fields != TupleFields::MadeUp {
            make_up_tuple_field(kind, self.tuple_fields, out);
            return;
        }
        let choice = self.choices.get(visitor).copied().unwrap_or_default();
        let examples = self.examples.as_ref().and_then(|examples| examples.get(&kind));
        match examples.and_then(|examples| examples.get(choice.checked_sub(1)?)) {
            Some(example) => out.extend_from_slice(example),
            None => make_up(kind, self.parts + self.round, out),
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
        self.parts += 1;
        if let Some((above, branch)) = self.stack.last()
            && let Some(point) = self.points.get_mut(above)
        {
            point.branches[*branch].next.insert(visitor);
        }
        let point = self
            .points
            .entry(visitor)
            .or_insert_with(|| ChoicePoint { is_optional, branches: vec![Branch::default(); branches] });
        let is_within_itself = self.stack.iter().any(|(above, _)| *above == visitor);
        let branch = if !is_optional {
            let is_inside = |branch: usize| self.stack.contains(&(visitor, branch));
            let variant = point.next_variant(is_within_itself, is_inside, &self.open);
            variant.ok_or_else(|| Error::new("it has no end"))?
        } else if is_unnamed && self.tuple_fields == TupleFields::Empty {
            0
        } else {
            let is_large = self.parts - self.parts_before > LARGE;
            usize::from(!is_within_itself && (!is_large || point.is_untried()))
        };
        self.stack.push((visitor, branch));
        self.taken.push((visitor, branch));
        if !is_optional {
            self.variant = Some((visitor, branch));
        }
        Ok(branch)
    }

    /// The part that the last chosen branch consists of is complete.
    pub(super) fn leave_branch(&mut self) {
        self.stack.pop();
    }

    pub(super) fn saw_tuple_struct(&mut self, length: usize) {
        self.has_tuple_struct |= length > 1;
    }

    /// Goes on to the next kind of [`TupleFields`]. Returns `false` if no more values are needed.
    pub(super) fn next_tuple_fields(&mut self) -> bool {
        self.tuple_fields = match self.tuple_fields {
            TupleFields::MadeUp if self.has_tuple_struct => TupleFields::Empty,
            TupleFields::Empty => TupleFields::Minimal,
            TupleFields::MadeUp | TupleFields::Minimal => return false,
        };
        true
    }

    pub(super) fn variant_is_read(&mut self) {
        self.variant = None;
    }
}

impl ChoicePoint {
    /// The variant to choose: of a type within itself, one that is known to end; else one that is untried, or
    /// that leads to a point in `open`, from which an untried one can be reached.
    fn next_variant(
        &self,
        is_within_itself: bool,
        is_inside: impl Fn(usize) -> bool,
        open: &BTreeSet<VisitorKey>,
    ) -> Option<usize> {
        let in_state = |state: State| {
            (0..).zip(&self.branches).find(|(number, branch)| branch.state == state && !is_inside(*number))
        };
        let (done, untried) = (in_state(State::Done), in_state(State::Untried));
        let postponed = in_state(State::Postponed);
        let leads_on = || {
            let may_lead_on =
                |branch: &Branch| branch.state != State::Refused && !branch.next.is_disjoint(open);
            (0..).zip(&self.branches).find(|(_, branch)| may_lead_on(branch))
        };
        let chosen = if is_within_itself {
            done.or(untried).or(postponed)
        } else {
            untried.or_else(leads_on).or(postponed).or(done)
        };
        chosen.map(|(number, _)| number)
    }

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
fn make_up_tuple_field(kind: Kind, fields: TupleFields, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + kind.size(), 0);
    if let (TupleFields::Minimal, Some(first)) = (fields, out.get_mut(start)) {
        *first = 1;
        out.extend(kind.is_text().then_some(b'm'));
    }
}
