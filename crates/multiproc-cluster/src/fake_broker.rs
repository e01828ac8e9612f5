//! A broker for unit tests: it takes connections, and answers requests as the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use async_nats::ConnectOptions;

use crate::connection::Connection;

/// Connects to a broker with that `max_payload`. Each request gets what `answer` makes of its payload; it may block. An
/// answer without bytes ends the connection. What asks for no answer gets none.
pub(crate) async fn connect(
    max_payload: usize,
    answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
) -> multiproc::Result<Connection> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || serve(&stream, max_payload, &answer));
        }
    });
    Connection::new(&url, ConnectOptions::new(), "test").await.map_err(|refusal| refusal.error)
}

/// Serves until the client is gone, or sends what this does not know.
fn serve(mut stream: &TcpStream, max_payload: usize, answer: &dyn Fn(&[u8]) -> Vec<u8>) -> Option<()> {
    let mut commands = BufReader::new(stream.try_clone().ok()?);
    let info = format!(
        "{{\"server_id\":\"x\",\"version\":\"2.10.0\",\"headers\":true,\"max_payload\":{max_payload}}}"
    );
    stream.write_all(format!("INFO {info}\r\n").as_bytes()).ok()?;
    let mut inbox = String::new();
    loop {
        let mut line = String::new();
        commands.read_line(&mut line).ok().filter(|&length| length > 0)?;
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["CONNECT" | "UNSUB", ..] | ["PONG"] => {}
            ["PING"] => stream.write_all(b"PONG\r\n").ok()?,
            ["SUB", _, sid] => inbox = sid.to_owned(),
            ["PUB", _, reply, length] => {
                let mut payload = vec![0; length.parse::<usize>().ok()? + 2];
                commands.read_exact(&mut payload).ok()?;
                let answer = answer(&payload[..payload.len() - 2]);
                if answer.is_empty() {
                    return None;
                }
                let head = format!("MSG {reply} {inbox} {}\r\n", answer.len());
                stream.write_all(&[head.as_bytes(), &answer, b"\r\n"].concat()).ok()?;
            }
            ["PUB", _, length] => {
                commands.read_exact(&mut vec![0; length.parse::<usize>().ok()? + 2]).ok()?;
            }
            _ => return None,
        }
    }
}
