//! Bootstrap messages that do not come from the parent, or not from the same build.

use std::env;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::sys::socket::{MsgFlags, SockType, recv, send};

use super::{BOOTSTRAP_MESSAGES, HASTY, bootstrap, run_with, sockets, start_sockets, text};
use crate::support::{Outcome, trials};

trials![
    a_bootstrap_message_from_another_build_is_refused,
    a_bootstrap_message_from_another_process_is_refused,
    whatever_stands_in_standard_input_nothing_runs_but_main,
];

fn a_bootstrap_message_from_another_build_is_refused() -> Outcome {
    let bootstrap = bootstrap("other-build");
    for (program, is_its) in [(BOOTSTRAP_MESSAGES, true), (HASTY, false)] {
        let (ours, theirs) = start_sockets();
        send(ours.as_raw_fd(), &bootstrap, MsgFlags::empty())?;
        let output = run_with(theirs, Command::new(program).arg("late"));
        let mut answer = [0; 1000];
        let length = recv(ours.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if is_its {
            assert_eq!(text(&output.stdout), "the task runs\n", "else this test shows nothing");
        } else {
            assert_eq!(
                (output.status.code(), &output.stdout[..], &output.stderr[..]),
                (Some(1), &[][..], &[][..])
            );
            let answer = text(&answer[..length]);
            assert!(answer.contains("parent and child are different builds of the program"), "{answer}");
        }
    }
    Ok(())
}

/// A shell is the parent, and did not create the socket.
fn a_bootstrap_message_from_another_process_is_refused() -> Outcome {
    let (ours, theirs) = start_sockets();
    send(ours.as_raw_fd(), &bootstrap("no-parent"), MsgFlags::empty())?;
    let output =
        run_with(theirs, Command::new("sh").args(["-c", "\"$0\" late; echo $?", BOOTSTRAP_MESSAGES]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("1\n".into(), "".into()));
    Ok(())
}

fn whatever_stands_in_standard_input_nothing_runs_but_main() -> Outcome {
    let bootstrap = bootstrap("any-input");
    let greeting = concat!("\0multiproc start ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
    assert!(bootstrap.starts_with(greeting), "else this test shows nothing");
    let garbage: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let in_memory = [&[1], &100_u64.to_le_bytes()[..], &greeting[1..]].concat();
    let mut contents = vec![b"x".to_vec(), garbage.clone(), in_memory, bootstrap.clone()];
    contents.extend([1, 8, greeting.len() - 1, greeting.len()].map(|length| bootstrap[..length].to_vec()));
    contents.extend([1, 9, 20].map(|less| bootstrap[..bootstrap.len() - less].to_vec()));
    contents.extend((0..40).map(|start| [greeting, &garbage[start * 200..(start + 1) * 200]].concat()));
    contents.push([greeting, &[0xff; 1000][..]].concat());
    let main_runs = (Some(0), "main runs\n");
    for content in contents.iter().map(Some).chain([None]) {
        for kind in [SockType::SeqPacket, SockType::Stream, SockType::Datagram] {
            survives(sockets(kind), content, main_runs);
        }
        // A marked socket is for a child: running on would run `main` in each child of a program that has
        // read its input before `init`.
        survives(start_sockets(), content, (Some(1), ""));
    }
    Ok(())
}

/// The other end of the socket stays open: a program that waited for more would hang.
fn survives((ours, theirs): (OwnedFd, OwnedFd), content: Option<&Vec<u8>>, expected: (Option<i32>, &str)) {
    if let Some(content) = content {
        send(ours.as_raw_fd(), content, MsgFlags::empty()).unwrap();
    }
    let output = run_with(theirs, &mut Command::new(HASTY));
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    let right = (output.status.code(), &said[..]) == expected && !errors.contains("panicked");
    assert!(right, "{content:?}: {output:?}");
}
