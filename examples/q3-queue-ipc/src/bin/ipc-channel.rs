//! The same tickets over the channels of the `ipc-channel` crate.

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use multiproc::{Process, TaskError};
use serde::{Deserialize, Serialize};

fn produce(server: String) -> Result<(), TaskError> {
    let sender: IpcSender<String> = receive_end(server)?;
    for number in 1..=4 {
        sender.send(format!("ticket{number}"))?;
    }
    Ok(())
}

/// Prints tickets until the last sender is gone.
fn consume(server: String) -> Result<(), TaskError> {
    let receiver: IpcReceiver<String> = receive_end(server)?;
    loop {
        match receiver.recv() {
            Ok(ticket) => println!("{ticket}"),
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// In a child: connects to the parent's server, and takes over what the parent sends there.
fn receive_end<T: Serialize + for<'de> Deserialize<'de>>(server: String) -> anyhow::Result<T> {
    let (sender, receiver) = ipc::channel()?;
    IpcSender::connect(server)?.send(sender)?;
    Ok(receiver.recv()?)
}

/// In the parent: waits until the child has connected, and sends it an end of the channel.
fn send_end<T: Serialize + for<'de> Deserialize<'de>>(
    server: IpcOneShotServer<IpcSender<T>>,
    end: T,
) -> anyhow::Result<()> {
    let (_, child) = server.accept()?;
    Ok(child.send(end)?)
}

fn main() -> anyhow::Result<()> {
    multiproc::init();

    let (sender, receiver) = ipc::channel::<String>()?;
    let (server, name) = IpcOneShotServer::new()?;
    let consumer = Process::spawn(consume, (name,))?;
    send_end(server, receiver)?;
    let (server, name) = IpcOneShotServer::new()?;
    let producer = Process::spawn(produce, (name,))?;
    send_end(server, sender.clone())?;
    sender.send("ticket5".to_owned())?;
    drop(sender);

    producer.join()??;
    consumer.join()??;
    Ok(())
}
