//! A queue through which parties exchange messages: some are large, and some hold a descriptor.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::ensure;
use multiproc::queue::{Receiver, Sender};
use multiproc::sync::Atomic;
use multiproc::{Connection, Error, Fd, Result, SharedSlice, TaskError, pipe};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::ITEMS;

/// Some of them are more than one step of an unbounded queue's memory.
const LARGE: usize = 400_000;
const SLICE: usize = 1_000;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Exchange {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// What parties have begun and what they know to be done, of each item by its number.
    sending: Atomic<[u32]>,
    sent: Atomic<[u32]>,
    received: Atomic<[u32]>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    number: u32,
    content: Content,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Content {
    Nothing,
    Bytes(ByteBuf),
    Slice(SharedSlice<u32>),
    File(Fd<File>),
    /// The receiver sends the number there.
    Reply(Connection<u32, ()>),
}

/// Where the reply to a message comes.
pub(super) type Replies = Option<Connection<(), u32>>;

impl Exchange {
    pub(super) fn new((sender, receiver): (Sender<Message>, Receiver<Message>)) -> Result<Self> {
        let counts = || Atomic::from_slice(&[0_u32; ITEMS]);
        Ok(Self { sender, receiver, sending: counts()?, sent: counts()?, received: counts()? })
    }

    pub(super) fn receiver(&self) -> &Receiver<Message> {
        &self.receiver
    }

    pub(super) fn send(&self, number: u32) -> Result<Replies> {
        let (content, replies) = Content::new(number)?;
        self.sending[number as usize].fetch_add(1, SeqCst);
        self.sender.send(Message { number, content })?;
        self.sent[number as usize].fetch_add(1, SeqCst);
        Ok(replies)
    }

    /// Receives a message: one was sent before by the same party. Then takes the reply to its own message, if
    /// that has been received.
    pub(super) fn receive(&self, number: u32, replies: Replies) -> Result<()> {
        self.receiver.recv().and_then(|message| self.count(message))?;
        let Some(replies) = replies else { return Ok(()) };
        if replies.poll(Duration::ZERO)? {
            match replies.recv() {
                Err(error) if error.is_disconnected() => {} // a receiver was killed
                reply => assert_eq!(reply?, number, "another reply comes"),
            }
        }
        Ok(())
    }

    /// Receives what is left when no party works any more.
    pub(super) fn receive_rest(&self) -> Result<()> {
        loop {
            match self.receiver.try_recv() {
                Err(error) if error.is_empty() => return Ok(()),
                message => self.count(message?)?,
            }
        }
    }

    fn count(&self, Message { number, content }: Message) -> Result<()> {
        content.check(number)?;
        self.received[number as usize].fetch_add(1, SeqCst);
        Ok(())
    }

    /// Whether each item has come where it must, after this many kills.
    pub(super) fn check(&self, kills: u64) -> anyhow::Result<()> {
        let mut lost = 0;
        for number in 0..ITEMS {
            let [sending, sent, received] =
                [&self.sending, &self.sent, &self.received].map(|counts| counts[number].load(SeqCst));
            ensure!(received <= sending, "item {number} comes {received} times, sent {sending} times");
            lost += u64::from(sent.saturating_sub(received));
        }
        // A receiver may be killed when it has taken an item, and not counted it.
        ensure!(lost <= kills, "{lost} items are lost by {kills} kills");
        Ok(())
    }
}

impl Content {
    fn new(number: u32) -> Result<(Self, Replies)> {
        Ok(match number % 5 {
            0 => (Self::Nothing, None),
            1 => (Self::Bytes(vec![low_byte(number); LARGE].into()), None),
            2 => (Self::Slice(SharedSlice::from_slice(&[number; SLICE])?), None),
            3 => (Self::File(Fd::from(file_with(number).map_err(to_error)?)), None),
            _ => {
                let (ours, theirs) = pipe()?;
                (Self::Reply(theirs), Some(ours))
            }
        })
    }

    fn check(self, number: u32) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Bytes(bytes) => assert!(bytes == vec![low_byte(number); LARGE], "other bytes come"),
            Self::Slice(slice) => assert!(*slice == [number; SLICE], "other elements come"),
            Self::File(file) => {
                let mut bytes = [0; 4];
                file.read_exact_at(&mut bytes, 0).map_err(to_error)?;
                assert_eq!(u32::from_ne_bytes(bytes), number, "another file comes");
            }
            Self::Reply(reply) => match reply.send(number) {
                Err(refused) if refused.error().is_disconnected() => {} // its sender does not wait for it
                sent => sent?,
            },
        }
        Ok(())
    }
}

fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

fn file_with(number: u32) -> std::io::Result<File> {
    let file = File::from(memfd_create(c"message", MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(&number.to_ne_bytes(), 0)?;
    Ok(file)
}

fn to_error(error: std::io::Error) -> Error {
    TaskError::from(error).into()
}
