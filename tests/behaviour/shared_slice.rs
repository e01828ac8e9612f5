//! **`SharedSlice`**: large data that many processes read without a copy.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::Pod;
use bytemuck_derive::{Pod, Zeroable};
use multiproc::queue::Receiver;
use multiproc::{Connection, Pool, Process, Result, SharedSlice, pipe, queue};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tests::fork_and_wait;

use crate::support::{Outcome, TEST_TIMEOUT, alone, descriptors, send_signal, trials, wait_for_state};

trials![
    another_process_reads_it,
    an_empty_one_travels,
    it_is_a_slice_by_as_ref,
    the_tasks_of_a_pool_read_parts_of_it,
    a_thousand_tasks_map_it_once,
    one_too_large_to_be_kept_is_given_back,
    one_that_comes_back_is_still_the_same,
    it_travels_in_a_queue_and_as_a_result,
    a_receiver_cannot_write,
    a_killed_receiver_harms_no_other,
    a_copy_of_a_receiver_receives_it_again,
    nothing_is_left_of_it,
    a_limit_on_file_sizes_is_an_error_and_no_signal,
];

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Star {
    position: [f32; 3],
    brightness: f32,
}

fn numbers(count: u64) -> Result<SharedSlice<u64>> {
    SharedSlice::from_slice(&(0..count).collect::<Vec<_>>())
}

fn sum(numbers: SharedSlice<u64>) -> u64 {
    numbers.iter().sum()
}

/// What this process has of the memory that is at an address: its number, how many mappings, how many
/// descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holdings {
    inode: u64,
    mappings: usize,
    descriptors: usize,
}

fn holdings<T: Pod>(slice: &SharedSlice<T>) -> Holdings {
    holdings_of(inode_at(slice.as_ptr()))
}

/// The number of the memory that is at an address of this process.
pub(crate) fn inode_at<T>(address: *const T) -> u64 {
    let address = address.addr();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let inside = |line: &&str| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(from)..number(to)).contains(&address)
    };
    let line = maps.lines().find(inside).unwrap();
    assert!(line.contains("/memfd:"), "{line}");
    line.split_whitespace().nth(4).unwrap().parse().unwrap()
}

fn holdings_of(inode: u64) -> Holdings {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_it =
        |line: &&str| line.contains("/memfd:") && line.split_whitespace().nth(4) == Some(&inode.to_string());
    Holdings { inode, mappings: maps.lines().filter(is_it).count(), descriptors: descriptors_of(inode).len() }
}

/// The paths of this process's descriptors of the memory with this inode.
fn descriptors_of(inode: u64) -> Vec<String> {
    let names = descriptors().into_iter().map(|number| format!("/proc/self/fd/{number}"));
    let is_memory =
        |name: &String| fs::read_link(name).is_ok_and(|target| target.to_str().unwrap().contains("memfd:"));
    names.filter(|name| is_memory(name) && fs::metadata(name).is_ok_and(|data| data.ino() == inode)).collect()
}

fn another_process_reads_it() -> Outcome {
    let star = |number: u16| Star { position: [0.0, f32::from(number), 1.0], brightness: -26.7 };
    let stars = SharedSlice::build(10_000, |slots| {
        for (slot, number) in slots.iter_mut().zip(0..) {
            *slot = star(number);
        }
    })?;
    let nth = |stars: SharedSlice<Star>, n: usize| (stars.len(), stars[n].position, stars[n].brightness);
    let child = Process::spawn(nth, (stars.clone(), 9_999))?;
    assert_eq!(child.join()?, (10_000, star(9_999).position, star(9_999).brightness));

    let (ours, theirs) = pipe::<SharedSlice<Star>, bool>()?;
    let child = Process::spawn(
        |stars: Connection<bool, SharedSlice<Star>>| -> Result<()> {
            for received in stars.iter() {
                let received = received?;
                stars.send(received.iter().all(|star| star.position[2] > 0.5))?;
            }
            Ok(())
        },
        (theirs,),
    )?;
    for _ in 0..10 {
        ours.send(stars.clone())?;
        assert!(ours.recv()?);
    }
    drop(ours);
    Ok(child.join()??)
}

fn an_empty_one_travels() -> Outcome {
    let child = Process::spawn(|numbers: SharedSlice<u64>| numbers.len(), (numbers(0)?,))?;
    assert_eq!(child.join()?, 0);
    Ok(())
}

/// What takes an `AsRef<[T]>` reads the memory itself.
fn it_is_a_slice_by_as_ref() -> Outcome {
    let read = |numbers: SharedSlice<u64>| {
        let slice: &[u64] = numbers.as_ref();
        (slice.as_ptr() == numbers.as_ptr(), slice.to_vec())
    };
    for count in [1, 100_000] {
        let expected: Vec<u64> = (0..count).collect();
        assert_eq!(read(numbers(count)?), (true, expected.clone()));
        assert_eq!(Process::spawn(read, (numbers(count)?,))?.join()?, (true, expected));
    }
    assert_eq!(numbers(0)?.as_ref(), [0_u64; 0]);
    Ok(())
}

fn the_tasks_of_a_pool_read_parts_of_it() -> Outcome {
    let pool = Pool::new(3)?;
    let numbers = numbers(100_000)?;
    let sum_part =
        |numbers: SharedSlice<u64>, part: usize| numbers[part * 1000..][..1000].iter().sum::<u64>();
    let sums = pool.starmap(sum_part, (0..100).map(|part| (numbers.clone(), part)))?;
    assert_eq!(sums.iter().sum::<u64>(), sum(numbers));
    Ok(())
}

fn a_thousand_tasks_map_it_once() -> Outcome {
    let numbers = numbers(100_000)?;
    let pool = Pool::new(1)?;
    let look = |numbers: SharedSlice<u64>| {
        (numbers.as_ptr().addr(), holdings(&numbers), numbers.iter().sum::<u64>())
    };
    let looks = pool.map(look, (0..1000).map(|_| numbers.clone()))?;
    let (first, total) = (looks[0].0, sum(numbers));
    for (address, held, seen) in looks {
        assert_eq!((address, held.mappings, seen), (first, 1, total));
        assert!(held.descriptors <= 2, "one of the mapping, and one that items name: {held:?}");
    }
    Ok(())
}

fn one_too_large_to_be_kept_is_given_back() -> Outcome {
    let pool = Pool::new(1)?;
    let kept = SharedSlice::from_slice(&[1_u8; 1000])?;
    let large = SharedSlice::<u8>::build(64 * 1024 * 1024 + 1, |slots| slots[0] = 1)?;
    let look = |bytes: SharedSlice<u8>| (bytes[0], holdings(&bytes));
    let (in_kept, in_large) = (pool.apply(look, (kept,))?, pool.apply(look, (large,))?);
    assert_eq!((in_kept.0, in_large.0), (1, 1));
    assert_eq!((in_large.1.mappings, in_large.1.descriptors), (1, 1));
    assert_eq!(pool.apply(holdings_of, (in_kept.1.inode,))?, in_kept.1);
    let nothing = Holdings { mappings: 0, descriptors: 0, ..in_large.1 };
    assert_eq!(pool.apply(holdings_of, (in_large.1.inode,))?, nothing);
    Ok(())
}

fn one_that_comes_back_is_still_the_same() -> Outcome {
    let numbers = numbers(1000)?;
    let (ours, theirs) = pipe::<SharedSlice<u64>, SharedSlice<u64>>()?;
    let echo =
        |peer: Connection<SharedSlice<u64>, SharedSlice<u64>>| peer.send(peer.recv().unwrap()).unwrap();
    let child = Process::spawn(echo, (theirs,))?;
    ours.send(numbers.clone())?;
    let back = ours.recv()?;
    assert_eq!(back.as_ptr(), numbers.as_ptr());
    child.join()?;
    let Holdings { mappings, descriptors, .. } = holdings(&numbers);
    assert_eq!((mappings, descriptors), (1, 1));
    Ok(())
}

fn it_travels_in_a_queue_and_as_a_result() -> Outcome {
    let (sender, receiver) = queue::bounded(100)?;
    let sums = |receiver: Receiver<SharedSlice<u64>>| -> Result<u64> {
        receiver.iter().map(|numbers| Ok(sum(numbers?))).sum()
    };
    let child = Process::spawn(sums, (receiver,))?;
    let ten = numbers(10)?;
    sender.send_all((0..50).map(|_| ten.clone()))?;
    drop(sender);
    assert_eq!(child.join()??, 50 * 45);
    let returned = Process::spawn(|| numbers(11).unwrap(), ())?.join()?;
    assert_eq!(sum(returned), 55);
    Ok(())
}

fn a_receiver_cannot_write() -> Outcome {
    let numbers = numbers(1000)?;
    let attempt = |numbers: SharedSlice<u64>| {
        let names = descriptors_of(holdings(&numbers).inode);
        assert_eq!(names.len(), 1);
        let file = OpenOptions::new().read(true).write(true).open(&names[0]).unwrap();
        let mut byte = [0xff];
        file.read_exact_at(&mut byte, 0).unwrap(); // it is the memory itself
        assert_eq!(byte, [0]);
        let refusals = [file.write_at(b"x", 0).err(), file.set_len(0).err(), file.set_len(1 << 20).err()];
        refusals
            .iter()
            .all(|error| error.as_ref().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied))
    };
    assert!(Process::spawn(attempt, (numbers.clone(),))?.join()?);
    assert_eq!(sum(numbers), 499_500);
    Ok(())
}

fn a_killed_receiver_harms_no_other() -> Outcome {
    alone(|| {
        let numbers = numbers(1000)?;
        let inode = holdings(&numbers).inode;
        let (ours, theirs) = pipe::<(), u64>()?;
        let stay = |numbers: SharedSlice<u64>, peer: Connection<u64, ()>| -> Result<()> {
            peer.send(numbers.iter().sum())?;
            peer.recv()
        };
        let child = Process::spawn(stay, (numbers.clone(), theirs))?;
        assert!(ours.poll(TEST_TIMEOUT)?);
        assert_eq!(ours.recv()?, 499_500);
        wait_for_state(child.pid(), 'S');
        send_signal(child.pid(), Signal::SIGKILL);
        assert_eq!(child.join().unwrap_err().signal(), Some(Signal::SIGKILL as i32));
        assert_eq!(Process::spawn(sum, (numbers.clone(),))?.join()?, 499_500);
        drop((numbers, ours));
        assert_eq!(holdings_of(inode), Holdings { inode, mappings: 0, descriptors: 0 });
        Ok(())
    })
}

fn a_copy_of_a_receiver_receives_it_again() -> Outcome {
    let numbers = numbers(1000)?;
    let (ours, theirs) = pipe::<SharedSlice<u64>, (bool, u64)>()?;
    let fork = |peer: Connection<(bool, u64), SharedSlice<u64>>| -> Result<()> {
        let first = peer.recv()?;
        if !fork_and_wait() {
            let again = peer.recv()?;
            peer.send((again.as_ptr() == first.as_ptr(), sum(again)))?;
            drop(first);
            peer.send((false, sum(peer.recv()?)))?;
        }
        Ok(())
    };
    let child = Process::spawn(fork, (theirs,))?;
    for _ in 0..3 {
        ours.send(numbers.clone())?;
    }
    assert_eq!(ours.recv()?, (true, 499_500));
    assert_eq!(ours.recv()?, (false, 499_500));
    Ok(child.join()??)
}

fn nothing_is_left_of_it() -> Outcome {
    alone(|| {
        let memory = || fs::read_to_string("/proc/self/maps").unwrap().matches("/memfd:").count();
        let before = (descriptors(), memory());
        for make in [|| numbers(100_000), || SharedSlice::build(100_000, |slots| slots.fill(7))] {
            let slice = make()?;
            let clone = slice.clone();
            assert_eq!((descriptors().len(), memory()), (before.0.len() + 1, before.1 + 1));
            drop(slice);
            assert!(sum(clone) > 0);
            assert_eq!((descriptors(), memory()), before);
        }
        let panicking = || SharedSlice::<u64>::build(100_000, |_| panic!("on purpose"));
        let panic = catch_unwind(AssertUnwindSafe(panicking)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert_eq!((descriptors(), memory()), before);
        Ok(())
    })
}

fn a_limit_on_file_sizes_is_an_error_and_no_signal() -> Outcome {
    alone(|| {
        setrlimit(Resource::RLIMIT_FSIZE, 8000, 8000).unwrap();
        assert_eq!(sum(numbers(1000)?), 499_500);
        let built = SharedSlice::<u64>::build(1001, |_| panic!("there is nothing to fill"));
        for refused in [numbers(1001), built] {
            let error = refused.unwrap_err();
            assert_eq!(error.os_error(), Some(Errno::EFBIG as i32), "{error}");
            assert!(error.to_string().contains("8008 bytes"), "{error}");
        }
        Ok(())
    })
}
