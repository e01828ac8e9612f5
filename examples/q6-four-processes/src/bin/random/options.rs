//! The command line of `random`.

use std::process::exit;

use lexopt::prelude::*;

const HELP: &str = "\
Draws four different numbers from 1 to 100 in four processes

Usage: random [OPTIONS]

Options:
      --seed <SEED>  Makes the draw repeatable [default: a random seed]
  -h, --help         Print help
";

/// The value of `--seed`. Ends the program if the command line asks for help or is wrong.
pub(crate) fn seed() -> Option<u64> {
    parse().unwrap_or_else(|error| {
        eprintln!("error: {error}\n\nFor more information, try '--help'.");
        exit(2)
    })
}

fn parse() -> Result<Option<u64>, lexopt::Error> {
    let mut seed = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seed") => seed = Some(arguments.value()?.parse()?),
            Short('h') | Long("help") => {
                print!("{HELP}");
                exit(0);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(seed)
}
