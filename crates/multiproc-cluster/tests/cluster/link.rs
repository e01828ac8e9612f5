//! A link to a server that can be cut, slow and broken. While it is cut, bytes wait, as those of TCP do, and arrive
//! when it is mended.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::server::Server;

pub(crate) struct Link {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: Mutex<Cut>,
    mended: Condvar,
    /// How long a byte takes.
    nanos_per_byte: AtomicU64,
    /// How many connections were made.
    connections: AtomicUsize,
    /// Both ends of those that may be there.
    streams: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Cut {
    /// To the server.
    forth: bool,
    /// From the server.
    back: bool,
}

impl Link {
    pub(crate) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let (target, link) = (server.port(), Arc::clone(&state));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                link.connections.fetch_add(1, Relaxed);
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let ends = [&near, &far].map(|stream| stream.try_clone().unwrap());
                lock(&link.streams).extend(ends);
                let (to_near, to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (forth, back) = (Arc::clone(&link), Arc::clone(&link));
                thread::spawn(move || forth.forward(near, to_far, |cut| cut.forth));
                thread::spawn(move || back.forward(far, to_near, |cut| cut.back));
            }
        });
        Self { port, state }
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut(&self) {
        self.state.set(Cut { forth: true, back: true });
    }

    /// Only what the server sends waits.
    pub(crate) fn cut_answers(&self) {
        self.state.set(Cut { forth: false, back: true });
    }

    pub(crate) fn mend(&self) {
        self.state.set(Cut::default());
    }

    /// Ends all connections; what waits in them is lost. New ones are served.
    pub(crate) fn reset(&self) {
        for stream in lock(&self.state.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Bytes of each direction take their time from now on.
    pub(crate) fn slow_down(&self, bytes_per_second: u64) {
        self.state.nanos_per_byte.store(1_000_000_000 / bytes_per_second, Relaxed);
    }
}

impl State {
    fn set(&self, cut: Cut) {
        *lock(&self.cut) = cut;
        self.mended.notify_all();
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, is_cut: impl Fn(&Cut) -> bool) {
        let mut buffer = [0; 8 * 1024];
        while let Ok(length) = from.read(&mut buffer)
            && length > 0
        {
            thread::sleep(Duration::from_nanos(self.nanos_per_byte.load(Relaxed) * length as u64));
            let cut = lock(&self.cut);
            drop(self.mended.wait_while(cut, |cut| is_cut(cut)).unwrap_or_else(PoisonError::into_inner));
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.mend(); // lets the threads see the ends
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
