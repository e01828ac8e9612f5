//! Producer and consumer in processes of their own, with a queue between them.

use multiproc::queue::{self, Receiver, Sender};
use multiproc::{Process, Result};

fn produce(tickets: Sender<String>) -> Result<()> {
    for number in 1..=4 {
        tickets.send(format!("ticket{number}"))?;
    }
    Ok(())
}

/// Prints tickets until the last sender is gone.
fn consume(desk: Receiver<String>) -> Result<()> {
    for ticket in desk {
        println!("{}", ticket?);
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    multiproc::init();

    let (tickets, desk) = queue::bounded::<String>(16)?;
    let consumer = Process::spawn(consume, (desk,))?;
    let producer = Process::spawn(produce, (tickets.clone(),))?;
    tickets.send("ticket5".to_owned())?;
    drop(tickets); // ours; the producer's goes when the producer ends, and then the consumer ends

    producer.join()??;
    consumer.join()??;
    Ok(())
}
