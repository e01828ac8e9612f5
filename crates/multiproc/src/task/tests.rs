//! Tests of names and runs of functions, in one process.

use proptest::prelude::*;

use super::*;
use crate::testing::{any_word, cases};

fn half(number: u64) -> Option<u64> {
    number.is_multiple_of(2).then_some(number / 2)
}

fn args<T: wire::Transferable>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode(value, &mut out, "arguments").unwrap();
    out
}

#[test]
fn a_function_runs_by_its_name() {
    let id = TaskId::of::<RunOnce, _, (u64,)>(half).unwrap();
    let mut out = vec![9];
    id.find::<RunOnce>().unwrap().run(&args(&(14_u64,)), Vec::new(), &mut out).unwrap();
    assert_eq!(wire::decode::<Option<u64>>(&out[1..], Vec::new(), "a result").unwrap(), Some(7));
}

#[test]
fn a_function_has_the_name_that_the_compiler_gives_it() {
    let id = TaskId::of::<RunOnce, _, (u64,)>(half).unwrap();
    assert_eq!(id.function::<RunOnce>(), "multiproc::task::tests::half");
    assert_eq!(TaskId::from_words([0, 0]).function::<RunOnce>(), "unknown");
    assert_eq!(first_type("(a::F<(u8, [u8; 2]), b>, (u8,), u8)"), "a::F<(u8, [u8; 2]), b>");
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_number_names_a_function_or_none(offset in any_word(), signature in any::<u64>()) {
        let known = TaskId::of::<RunOnce, _, (u64,)>(half).unwrap();
        let is_found = |offset, signature| TaskId { offset, signature }.find::<RunOnce>().is_ok();
        prop_assert!(!is_found(offset, signature));
        prop_assert!(!is_found(known.offset, signature));
        prop_assert!(offset == known.offset || !is_found(offset, known.signature));
    }
}

#[test]
fn any_other_offset_or_type_is_refused() {
    let id = TaskId::of::<RunOnce, _, (u64,)>(half).unwrap();
    let other = TaskId::of::<RunOnce, _, (u32,)>(|number: u32| number).unwrap();
    for offset in [0, 8, id.offset + 1, id.offset + 8, u64::MAX, u64::MAX - 7] {
        assert!(TaskId { offset, ..id }.find::<RunOnce>().is_err());
    }
    assert!(TaskId { signature: other.signature, ..id }.find::<RunOnce>().is_err());
}

#[test]
fn arguments_that_do_not_decode_are_an_error() {
    let id = TaskId::of::<RunOnce, _, (u64,)>(half).unwrap();
    let error = id.find::<RunOnce>().unwrap().run(&[0xff], Vec::new(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot decode the arguments"), "{error}");
}
