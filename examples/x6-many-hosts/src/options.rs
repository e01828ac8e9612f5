//! The command line.

use std::path::PathBuf;
use std::process::exit;

use lexopt::prelude::*;

const USAGE: &str = "Usage: x6-many-hosts [<SERVER> <FOLDER>]";

const HELP: &str = "
Arguments:
  <SERVER>  The URL of a NATS server, as nats://10.0.0.1:4222 [default: a server and two agents on this machine]
  <FOLDER>  The folder of pictures; the thumbnails go to its folder `thumbnails`

Options:
  -h, --help  Print help
";

/// `None` without arguments. Ends the program if the command line asks for help or is wrong.
pub(crate) fn server_and_folder() -> Option<(String, PathBuf)> {
    parse().unwrap_or_else(|error| {
        eprintln!("error: {error}\n\n{USAGE}\n\nFor more information, try '--help'.");
        exit(2)
    })
}

fn parse() -> Result<Option<(String, PathBuf)>, lexopt::Error> {
    let (mut server, mut folder) = (None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(value) if server.is_none() => server = Some(value.string()?),
            Value(value) if folder.is_none() => folder = Some(value.into()),
            Short('h') | Long("help") => {
                print!("Makes the thumbnails of a folder with the hosts of a server\n\n{USAGE}\n{HELP}");
                exit(0);
            }
            other => return Err(other.unexpected()),
        }
    }
    match (server, folder) {
        (Some(_), None) => Err("the folder is missing".into()),
        (server, folder) => Ok(server.zip(folder)),
    }
}
