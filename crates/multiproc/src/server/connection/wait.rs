//! How a caller's threads wait for replies: one of them receives for all.

use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Connection;
use crate::channel::ReceiverCore;
use crate::error::{Error, Result};
use crate::server::death::{Fate, await_fate};
use crate::server::inbox::{self, Call, Inbox, Incoming, Reply};
use crate::server::message;
use crate::server::status_page::is_end;
use crate::sys::poll::Deadline;

/// The time between two attempts to receive a reply for which no descriptor is left: nothing announces one.
/// The maximum replies that are taken at once, apart from a call that waits for its own.
const MAX_REPLIES: u32 = 65_536;
const RECEIVE_AGAIN_AFTER: Duration = Duration::from_millis(2);

impl Connection {
    /// Waits for the reply to a call. `None` when the deadline comes first.
    ///
    /// What the kernel refuses, such as memory, or a descriptor for too long, is the error of this wait only. All
    /// calls stay open: the next wait connects again, or receives the reply, of which the call's number may be in
    /// memory that comes with a descriptor.
    pub(in crate::server) fn wait(&self, call: u64, deadline: Deadline) -> Option<Reply> {
        if let Err(error) = self.check_not_forked() {
            return Some(Err(error));
        }
        let mut inbox = self.lock();
        if !deadline.is_over()
            && let Err(error) = self.check_can_wait()
        {
            self.take_replies_that_are_there(&mut inbox, false);
            if matches!(inbox.calls.get(&call), Some(Call::Sending | Call::Sent)) {
                return Some(Err(error));
            }
        }
        loop {
            match inbox.calls.get(&call) {
                Some(Call::Sending | Call::Sent) => {}
                Some(Call::Done(_)) => match inbox.calls.remove(&call) {
                    Some(Call::Done(reply)) => return Some(reply),
                    _ => return None,
                },
                None => return Some(Err(Error::invalid("the call's result was already taken"))),
            }
            let outcome;
            (inbox, outcome) = self.advance(inbox, deadline);
            if let Err(error) = outcome {
                if !error.is_shortage_of_descriptors() || !inbox.shortage.record_failure() {
                    return Some(Err(error));
                }
                drop(inbox);
                inbox = self.lock_after_pause(deadline);
            }
            if deadline.is_over() && !matches!(inbox.calls.get(&call), Some(Call::Done(_))) {
                return None;
            }
        }
    }

    /// Receives a reply, or connects again, or waits until another thread has. An error is what the kernel has
    /// refused; then all is as it was.
    fn advance<'a>(
        &'a self,
        inbox: MutexGuard<'a, Inbox>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, Inbox>, Result<()>) {
        if inbox.is_in_use {
            return (self.wait_for_change(inbox, deadline), Ok(()));
        }
        let Some(channel) = inbox.channel.clone() else {
            let (mut inbox, connected) = self.connect(inbox, deadline);
            let noted = self.note_failure(&mut inbox, connected);
            return (inbox, noted);
        };
        let (status, since) = (inbox.status, inbox.hung_up_since);
        let receive = || self.receive(&channel, status, since, deadline);
        let (mut inbox, received) = self.without_lock(inbox, receive);
        match received {
            Err(error) if !error.is_codec() => (inbox, Err(error)),
            received => {
                self.enter(&mut inbox, received);
                (inbox, Ok(()))
            }
        }
    }

    /// Not a wait for a change: threads that receive in turn would wake each other at each attempt.
    fn lock_after_pause(&self, deadline: Deadline) -> MutexGuard<'_, Inbox> {
        thread::sleep(deadline.or_within(RECEIVE_AGAIN_AFTER).left().unwrap_or(RECEIVE_AGAIN_AFTER));
        self.lock()
    }

    pub(super) fn wait_for_change<'a>(
        &self,
        mut inbox: MutexGuard<'a, Inbox>,
        deadline: Deadline,
    ) -> MutexGuard<'a, Inbox> {
        inbox.waiters += 1;
        let mut inbox = match deadline.left() {
            None => self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.changed.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
        };
        inbox.waiters -= 1;
        inbox
    }

    /// Takes the replies that have come, so that calls whose result no handle takes fill no channel. After a
    /// restart, or if the channel `has_hung_up`, also finds out what became of the server.
    pub(super) fn take_replies_that_are_there(&self, inbox: &mut Inbox, has_hung_up: bool) {
        let Some(channel) = inbox.channel.clone().filter(|_| !inbox.is_in_use) else { return };
        let status = self.page().status();
        let may_have_any = |inbox: &Inbox| channel.end().len() > 0 || status != inbox.status || has_hung_up;
        // A faulty server may send them for as long as they are taken.
        for _ in 0..MAX_REPLIES {
            if inbox.channel.is_none() || !may_have_any(inbox) {
                return;
            }
            match self.receive(&channel, inbox.status, inbox.hung_up_since, Deadline::now()) {
                Ok(Incoming::Nothing) if is_end(status) => self.lose_channel(inbox, &Fate::Ended),
                Ok(Incoming::Nothing) => {
                    inbox.status = status;
                    return;
                }
                Ok(Incoming::HungUp(Fate::TimedOut)) => return Self::note_hang_up(inbox),
                // The reply stays where it is, until there is a descriptor or memory for it.
                Err(error) if !error.is_codec() => return,
                received => self.enter(inbox, received),
            }
        }
    }

    /// Receives a reply; from a channel that has hung up, what became of the server that had this status. A copy of the
    /// server's process, which a method has forked, keeps the channel from hanging up: so the page is asked, too.
    fn receive(
        &self,
        channel: &ReceiverCore,
        status: u64,
        hung_up_since: Option<Instant>,
        deadline: Deadline,
    ) -> Result<Incoming> {
        let mut is_alive = true;
        let received = loop {
            // Returns without a reply each half second, although there is time left.
            match inbox::receive(channel, if is_alive { deadline } else { Deadline::now() })? {
                Some(Incoming::Nothing) if !is_alive => break None,
                Some(Incoming::Nothing) if !deadline.is_over() => {
                    is_alive = self.is_alive(); // if not, once more: it may have replied before
                    if channel.end().len() > 0 {
                        channel.reset_lock(); // which no other thread takes: it was overwritten
                    }
                }
                received => break received,
            }
        };
        let begun = || hung_up_since.unwrap_or_else(Instant::now);
        let fate = || await_fate(self.page_and_namespace(), self.caller, status, begun(), deadline);
        Ok(received.unwrap_or_else(|| Incoming::HungUp(fate())))
    }

    /// Enters what was received.
    fn enter(&self, inbox: &mut Inbox, received: Result<Incoming>) {
        match received {
            Ok(Incoming::Reply(bytes, descriptors)) => {
                inbox.shortage.record_success();
                match message::call_of(&bytes) {
                    Ok(call) => inbox.enter(call, (bytes, descriptors)),
                    Err(error) => inbox.fail_all(|_| error.clone()),
                }
            }
            Ok(Incoming::Nothing) => {}
            Ok(Incoming::HungUp(fate)) => self.lose_channel(inbox, &fate),
            // Whose reply it was is not known: the memory was overwritten.
            Err(error) => inbox.fail_all(|_| error.clone()),
        }
    }

    /// Notes when the channel was first found hung up. So callers with short time limits, too, reach the time after
    /// which the cause counts as unknown.
    fn note_hang_up(inbox: &mut Inbox) {
        inbox.hung_up_since.get_or_insert_with(Instant::now);
    }

    /// The channel has hung up: the server has died or ended.
    fn lose_channel(&self, inbox: &mut Inbox, fate: &Fate) {
        if !matches!(fate, Fate::TimedOut) {
            (inbox.channel, inbox.hung_up_since) = (None, None);
        }
        match fate {
            Fate::Ended => self.end_all(inbox),
            Fate::Refused => inbox.fail_all(|_| Error::os("connect to a server", Errno::ENOMEM)),
            Fate::Nothing => inbox.fail_all(|_| self.page().unknown_end(&self.name)),
            Fate::TimedOut => Self::note_hang_up(inbox),
            Fate::Restarted => {}
        }
        self.notify_waiters(inbox);
    }
}
