//! `Atomic`: every operation across processes.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use multiproc::sync::Atomic;
use multiproc::{Process, Result};

use crate::support::{Outcome, trials};

trials![
    no_addition_is_lost,
    every_operation_is_seen_by_other_processes,
    a_slice_has_an_atomic_for_each_element,
    any_byte_is_a_bool,
];

fn no_addition_is_lost() -> Outcome {
    let count = Atomic::new(0_u64)?;
    let add = |count: Atomic<u64>| {
        for _ in 0..20_000 {
            count.fetch_add(1, Relaxed);
        }
    };
    let children: Vec<_> = (0..4).map(|_| Process::spawn(add, (count.clone(),))).collect::<Result<_>>()?;
    children.into_iter().try_for_each(Process::join)?;
    assert_eq!(count.load(Relaxed), 80_000);
    Ok(())
}

type Handles = (Atomic<i8>, Atomic<u16>, Atomic<i32>, Atomic<usize>, Atomic<bool>);

fn every_operation_is_seen_by_other_processes() -> Outcome {
    let handles: Handles =
        (Atomic::new(-5)?, Atomic::new(7)?, Atomic::new(1)?, Atomic::new(6)?, Atomic::new(false)?);
    let act = |(byte, short, word, size, flag): Handles| {
        assert_eq!(byte.fetch_min(-9, SeqCst), -5);
        assert_eq!(short.swap(8, SeqCst), 7);
        assert_eq!(word.compare_exchange(1, -2, SeqCst, SeqCst), Ok(1));
        assert_eq!(size.fetch_and(3, SeqCst), 6);
        assert_eq!(flag.compare_exchange(true, false, SeqCst, SeqCst), Err(false));
        assert!(!flag.fetch_or(true, SeqCst) && flag.swap(true, SeqCst) && flag.fetch_and(true, SeqCst));
    };
    Process::spawn(act, (handles.clone(),))?.join()?;
    let (byte, short, word, size, flag) = handles;
    assert_eq!((byte.load(SeqCst), short.load(SeqCst), word.load(SeqCst)), (-9, 8, -2));
    assert_eq!((size.load(SeqCst), flag.load(SeqCst)), (2, true));
    Ok(())
}

fn a_slice_has_an_atomic_for_each_element() -> Outcome {
    let numbers = Atomic::from_slice(&[1_u16, 2, 3])?;
    let double = |numbers: Atomic<[u16]>| {
        for number in numbers.iter() {
            number.fetch_add(number.load(SeqCst), SeqCst);
        }
    };
    Process::spawn(double, (numbers.clone(),))?.join()?;
    assert!(numbers.iter().map(|number| number.load(SeqCst)).eq([2, 4, 6]));
    assert!(Atomic::from_slice(&[false, true])?[1].load(SeqCst));
    assert!(Atomic::<[u64]>::from_slice(&[])?.is_empty());
    Ok(())
}

fn any_byte_is_a_bool() -> Outcome {
    let flag = Atomic::new(false)?;
    let overwrite = |_flag: Atomic<bool>| {
        let corrupter = tests::corrupter::Corrupter::new(tests::corrupter::mappings(), 1);
        (0..1024).for_each(|word| corrupter.overwrite(4 * word, 0x0202_0202));
    };
    Process::spawn(overwrite, (flag.clone(),))?.join()?;
    assert!(flag.load(SeqCst));
    assert_eq!(flag.compare_exchange(false, true, SeqCst, SeqCst), Err(true));
    Ok(())
}
