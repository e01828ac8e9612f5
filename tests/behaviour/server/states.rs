//! What a state can be: a type of the standard library, a struct of several fields, handles, a pool.

use std::collections::{HashMap, HashSet};

use multiproc::queue::{Receiver, Sender, bounded};
use multiproc::sync::{Event, Mutex};
use multiproc::{Pool, Process, Result, Server};

use crate::futures::square;
use crate::support::{Outcome, trials};

trials![
    a_dictionary_a_list_a_set_and_a_namespace_are_states,
    a_state_keeps_queues_and_hands_them_on,
    a_state_keeps_locks_and_events_that_others_use,
    a_pool_is_a_state,
];

/// A namespace.
#[derive(Default)]
struct Names {
    host: String,
    port: u16,
}

fn a_dictionary_a_list_a_set_and_a_namespace_are_states() -> Outcome {
    let dict = Server::spawn(HashMap::<String, u32>::new, ())?;
    assert_eq!(dict.call(HashMap::insert, ("a".to_owned(), 1))?, None);
    let get = |dict: &mut HashMap<String, u32>, key: String| dict.get(&key).copied();
    assert_eq!(dict.call(get, ("a".to_owned(),))?, Some(1));
    assert_eq!(dict.stop()?, HashMap::from([("a".to_owned(), 1)]));
    let list = Server::spawn(Vec::<u32>::new, ())?;
    list.call(Vec::push, (7,))?;
    list.call(|list: &mut Vec<u32>, more: Vec<u32>| list.extend(more), (vec![8, 9],))?;
    assert_eq!(list.call(Vec::pop, ())?, Some(9));
    assert_eq!(list.stop()?, [7, 8]);
    let set = Server::spawn(HashSet::<u32>::new, ())?;
    assert!(set.call(HashSet::insert, (7,))?);
    assert!(!set.call(HashSet::insert, (7,))?, "it is there");
    let names = Server::spawn(Names::default, ())?;
    names.call(|names: &mut Names, host: String| names.host = host, ("here".to_owned(),))?;
    names.call(|names: &mut Names| names.port += 80, ())?;
    let all = |names: &mut Names| (names.host.clone(), names.port);
    assert_eq!(names.call(all, ())?, ("here".to_owned(), 80), "each field keeps what was set");
    Ok(())
}

/// Python's queue in a managed list.
fn a_state_keeps_queues_and_hands_them_on() -> Outcome {
    let list = Server::spawn(Vec::<Sender<u32>>::new, ())?;
    let (sender, receiver): (_, Receiver<u32>) = bounded(4)?;
    list.call(Vec::push, (sender,))?;
    let send = |list: Server<Vec<Sender<u32>>>| -> Result<()> {
        let first = list.call(|senders: &mut Vec<Sender<u32>>| senders[0].clone(), ())?;
        Ok(first.send(7)?)
    };
    Process::spawn(send, (list.clone(),))?.join()??;
    assert_eq!(receiver.recv()?, 7);
    list.call(|senders: &mut Vec<Sender<u32>>| senders.clear(), ())?;
    assert!(receiver.recv().unwrap_err().is_disconnected(), "the state had the last one");
    Ok(())
}

/// Python's managed `Lock` and `Event`.
fn a_state_keeps_locks_and_events_that_others_use() -> Outcome {
    type Objects = (Mutex<u32>, Event);
    let (count, event) = (Mutex::new(0)?, Event::new()?);
    let server = Server::spawn(|objects: Objects| objects, ((count.clone(), event.clone()),))?;
    let work = |server: Server<Objects>| -> Result<()> {
        let (count, event) = server.call(|objects: &mut Objects| objects.clone(), ())?;
        *count.lock()? += 1;
        event.set();
        Ok(())
    };
    Process::spawn(work, (server.clone(),))?.join()??;
    assert!(server.call(|(_, event): &mut Objects| event.is_set(), ())?);
    assert_eq!((*count.lock()?, event.is_set()), (1, true));
    Ok(())
}

fn a_pool_is_a_state() -> Outcome {
    let server = Server::try_spawn(|| Pool::new(2), ())?;
    let squares = |pool: &mut Pool, numbers: Vec<u64>| pool.map(square, numbers);
    for _ in 0..3 {
        assert_eq!(server.call(squares, (vec![1, 2, 3],))??, [1, 4, 9]);
    }
    Ok(())
}
