//! A bank lives in a process of its own; two children call it, and a call crashes it.

use std::collections::HashMap;
use std::time::Duration;

use multiproc::server::Limit;
use multiproc::{Process, Result, Server};

/// The state: it lives in the server's process, and only there.
struct Bank(HashMap<String, i64>);

impl Bank {
    fn open(names: Vec<String>) -> Self {
        Self(names.into_iter().map(|name| (name, 100)).collect())
    }

    fn transfer(&mut self, from: String, to: String, amount: i64) -> Option<i64> {
        self.0.get(&to)?; // before anything changes
        *self.0.get_mut(&from)? -= amount;
        *self.0.get_mut(&to)? += amount;
        self.0.get(&from).copied()
    }

    fn balance(&mut self, name: String) -> i64 {
        self.0[&name]
    }

    fn crash(&mut self) {
        self.0.clear();
        std::process::abort();
    }
}

/// Runs in a child, with a handle of its own.
fn pay_often(bank: Server<Bank>) -> Result<()> {
    for _ in 0..50 {
        bank.call(Bank::transfer, ("Anna".into(), "Ben".into(), 1))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    multiproc::init();
    let builder = Server::builder().name("bank").restart(Limit::new(3, Duration::from_secs(60)));
    let bank = builder.spawn(Bank::open, (vec!["Anna".to_owned(), "Ben".to_owned()],))?;

    for child in [bank.clone(), bank.clone()].map(|bank| Process::spawn(pay_often, (bank,))) {
        child?.join()??;
    }
    println!("after 100 payments Anna has {}", bank.call(Bank::balance, ("Anna".into(),))?);

    let crash = bank.submit(Bank::crash, ())?;
    let next = bank.submit(Bank::balance, ("Anna".into(),))?;
    if let Err(error) = crash.get() {
        println!("the running call fails: {error}");
    }
    println!("the next call sees a new bank: {}", next.get()?);
    Ok(())
}
