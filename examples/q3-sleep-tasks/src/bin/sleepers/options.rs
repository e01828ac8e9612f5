//! The command line of `sleepers`.

use std::process::exit;

use lexopt::prelude::*;

const HELP: &str = "\
Sleeps in several processes at once and says how long that took

Usage: sleepers [OPTIONS]

Options:
      --seconds <SECONDS>      How long each process sleeps, in seconds [default: 3]
      --processes <PROCESSES>  How many processes sleep, 1 to 1000 [default: 2]
  -h, --help                   Print help
";

pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) processes: u32,
}

/// Ends the program if the command line asks for help or is wrong.
pub(crate) fn parse() -> Options {
    try_parse().unwrap_or_else(|error| {
        eprintln!("error: {error}\n\nFor more information, try '--help'.");
        exit(2)
    })
}

fn try_parse() -> Result<Options, lexopt::Error> {
    let mut options = Options { seconds: 3, processes: 2 };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seconds") => options.seconds = arguments.value()?.parse()?,
            Long("processes") => options.processes = arguments.value()?.parse_with(processes)?,
            Short('h') | Long("help") => {
                print!("{HELP}");
                exit(0);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn processes(text: &str) -> Result<u32, &'static str> {
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    number.ok_or("a number of processes is from 1 to 1000")
}
