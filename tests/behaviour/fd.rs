//! **`Fd`**: files and sockets that travel to other processes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use multiproc::queue::{Receiver, bounded};
use multiproc::{Fd, Pool, Process, Result, TaskError, pipe};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::support::{
    METHODS, Outcome, TEST_TIMEOUT, alone, descriptors, eventually, send_signal, trials, wait_for_state, with,
};

trials![
    a_server_accepts_in_the_parent_and_serves_in_children,
    a_child_opens_a_file_and_returns_it,
    it_travels_through_a_queue_and_a_pipe,
    one_with_a_high_number_travels,
    batches_of_items_with_and_without_descriptors_keep_their_order,
    a_descriptor_that_is_never_received_is_closed,
    a_killed_receiver_leaves_the_descriptor_to_another,
    where_no_descriptor_can_travel_is_an_error,
];

fn serve(mut client: Fd<TcpStream>) -> Result<(), TaskError> {
    let mut name = [0; 5];
    client.read_exact(&mut name)?;
    write!(client, "hello {} from {}", String::from_utf8_lossy(&name), std::process::id())?;
    Ok(())
}

fn accept(listener: Fd<TcpListener>) -> Result<(), TaskError> {
    serve(listener.accept()?.0.into())
}

fn answer(mut client: TcpStream) -> std::io::Result<String> {
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

fn a_server_accepts_in_the_parent_and_serves_in_children() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"world").unwrap();
        client
    };
    let pool = Pool::new(2)?;
    for _ in 0..10 {
        let client = connect();
        pool.apply(serve, (listener.accept().unwrap().0.into(),))??;
        assert!(answer(client).unwrap().starts_with("hello world from "));
    }
    let client = connect();
    let child = Process::spawn(accept, (listener.into(),))?;
    let expected = format!("hello world from {}", child.pid());
    child.join()??;
    assert_eq!(answer(client).unwrap(), expected);
    Ok(())
}

/// A file without a name that holds a text.
fn file(text: &str) -> Fd<File> {
    let mut file = File::from(memfd_create(c"text", MFdFlags::empty()).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn text(mut file: Fd<File>) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn a_child_opens_a_file_and_returns_it() -> Outcome {
    alone(|| {
        let mut child = Process::spawn(|| (file("from a child"), 7), ())?;
        let (returned, number) = child.join_timeout(TEST_TIMEOUT)?.unwrap();
        assert_eq!((text(returned), number), ("from a child".to_owned(), 7));
        drop(child);
        let before = crate::support::open_without_children();
        for _ in 0..10 {
            assert_eq!(text(Process::spawn(|| file("again"), ())?.join()?), "again");
            Process::spawn(|| file("dropped"), ())?.join_timeout(TEST_TIMEOUT)?;
        }
        assert_eq!(crate::support::open_without_children(), before);
        Ok(())
    })
}

fn it_travels_through_a_queue_and_a_pipe() -> Outcome {
    let (sender, receiver) = bounded(10)?;
    let echo = |receiver: Receiver<Fd<File>>| receiver.recv().map(text);
    let child = Process::spawn(echo, (receiver,))?;
    sender.send(file("queue"))?;
    assert_eq!(child.join()??, "queue");
    let (here, there) = pipe::<Fd<OwnedFd>, ()>()?;
    here.send(Fd::from(OwnedFd::from(file("pipe").into_inner())))?;
    let received: OwnedFd = there.recv()?.into_inner();
    assert_eq!(text(Fd::from(File::from(received))), "pipe");
    Ok(())
}

/// A process with hundreds of descriptors sends and receives it.
fn one_with_a_high_number_travels() -> Outcome {
    alone(|| {
        let crowd: Vec<File> = (0..300).map(|_| File::open("/dev/null").unwrap()).collect();
        let high = |text| {
            let file = file(text);
            assert!(file.as_raw_fd() > 300, "{file:?}");
            file
        };
        for method in METHODS {
            assert_eq!(with(method).spawn(text, (high("argument"),))?.join()?, "argument");
            let echoed = with(method).spawn(|file: Fd<File>| file, (high("result"),))?.join()?;
            assert!(echoed.as_raw_fd() > 300, "{echoed:?}");
            assert_eq!(text(echoed), "result");
        }
        let (sender, receiver) = bounded(1)?;
        sender.send(high("queue"))?;
        assert_eq!(text(receiver.recv()?), "queue");
        let (here, there) = pipe::<Fd<File>, ()>()?;
        here.send(high("pipe"))?;
        assert_eq!(text(there.recv()?), "pipe");
        drop(crowd);
        Ok(())
    })
}

fn batches_of_items_with_and_without_descriptors_keep_their_order() -> Outcome {
    let (sender, receiver) = bounded(1000)?;
    let item = |number: u32| (number, number.is_multiple_of(7).then(|| file(&number.to_string())));
    sender.send_all((0..100).map(item))?;
    drop(sender);
    let mut expected = 0;
    while let Ok(items) = receiver.recv_many(10) {
        for received in items {
            let (number, file) = received?;
            assert_eq!(number, expected);
            assert_eq!(file.map(text), number.is_multiple_of(7).then(|| number.to_string()));
            expected += 1;
        }
    }
    assert_eq!(expected, 100);
    Ok(())
}

fn a_descriptor_that_is_never_received_is_closed() -> Outcome {
    alone(|| {
        let before = descriptors();
        let (mut kept, sent) = UnixStream::pair().unwrap();
        let (sender, receiver) = bounded(10)?;
        sender.send(Fd::from(sent))?;
        drop((sender, receiver));
        kept.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "the other end is closed");
        drop(kept);
        assert_eq!(descriptors(), before);
        Ok(())
    })
}

fn a_killed_receiver_leaves_the_descriptor_to_another() -> Outcome {
    let (sender, receiver) = bounded::<Fd<File>>(10)?;
    for _ in 0..3 {
        let child =
            Process::spawn(|receiver: Receiver<Fd<File>>| receiver.recv().map(drop), (receiver.clone(),))?;
        wait_for_state(child.pid(), 'S');
        send_signal(child.pid(), Signal::SIGKILL);
        eventually("the receiver is gone", || !child.is_alive());
        sender.send(file("whole"))?;
        assert_eq!(text(receiver.recv_timeout(TEST_TIMEOUT)?), "whole");
    }
    Ok(())
}

fn where_no_descriptor_can_travel_is_an_error() -> Outcome {
    let error = serde_json::to_string(&file("json")).unwrap_err();
    assert!(error.to_string().contains("a descriptor"), "{error}");
    Ok(())
}
