//! The feature `log`: what tasks log.

use crate::server::Server;
use crate::support::{Outcome, agent_with, trials, wait_until};

trials![what_a_task_logs_is_at_its_agent_with_the_names_of_host_and_process];

fn log_twice(number: u32) -> u32 {
    log::warn!(target: "tests", number = number; "it is odd");
    log::debug!(target: "tests", "it is not wanted");
    std::process::id()
}

fn what_a_task_logs_is_at_its_agent_with_the_names_of_host_and_process() -> Outcome {
    let server = Server::start();
    let program = std::env::current_exe()?;
    let agent = agent_with(&server.url(), "far", &program, &[("RUST_LOG", "tests=info")]);
    let worker = server.pool("logs").apply(log_twice, (3,))?;
    let line = format!("agent: host far: [WARN tests] pool-worker[{worker}]: it is odd number=3\n");
    wait_until("the record is there", || agent.log().contains(&line));
    assert!(!agent.log().contains("it is not wanted"));
    Ok(())
}
