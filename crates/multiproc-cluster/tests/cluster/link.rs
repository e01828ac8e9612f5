//! A link to a server that can be cut: bytes wait, as those of TCP do, and arrive when it is mended.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::server::Server;

pub(crate) struct Link {
    port: u16,
    is_cut: Arc<(Mutex<bool>, Condvar)>,
    connections: Arc<AtomicUsize>,
}

impl Link {
    pub(crate) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_cut = Arc::new((Mutex::new(false), Condvar::new()));
        let (target, state) = (server.port(), Arc::clone(&is_cut));
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Relaxed);
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let (back, forth) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let states = [Arc::clone(&state), Arc::clone(&state)];
                let [first, second] = states;
                thread::spawn(move || forward(near, forth, &first));
                thread::spawn(move || forward(far, back, &second));
            }
        });
        Self { port, is_cut, connections }
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut(&self) {
        self.set(true);
    }

    pub(crate) fn mend(&self) {
        self.set(false);
    }

    fn set(&self, is_cut: bool) {
        *self.is_cut.0.lock().unwrap_or_else(PoisonError::into_inner) = is_cut;
        self.is_cut.1.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.mend(); // lets the threads see the ends
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, (is_cut, mended): &(Mutex<bool>, Condvar)) {
    let mut buffer = [0; 8 * 1024];
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
    {
        let cut = is_cut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(mended.wait_while(cut, |cut| *cut).unwrap_or_else(PoisonError::into_inner));
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
