//! A producer process, a consumer process, and a queue between them.

use multiproc::queue::{self, Receiver, Sender};
use multiproc::{Process, Result};

fn produce(sender: Sender<String>) -> Result<()> {
    for number in 1..=4 {
        sender.send(format!("ticket{number}"))?;
    }
    Ok(())
}

/// Prints tickets until the last sender is gone.
fn consume(receiver: Receiver<String>) -> Result<()> {
    for ticket in receiver {
        println!("{}", ticket?);
    }
    Ok(())
}

fn main() -> Result<()> {
    multiproc::init();

    let (sender, receiver) = queue::bounded(16)?;
    let consumer = Process::spawn(consume, (receiver,))?;
    let producer = Process::spawn(produce, (sender.clone(),))?;
    sender.send("ticket5".to_owned())?;
    drop(sender); // the producer's is the last one now; when it is gone, the consumer's loop ends

    // The first `?` is for a process that panicked or was killed, the second for an error of its function.
    producer.join()??;
    consumer.join()??;
    Ok(())
}
