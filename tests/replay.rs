//! Sends the SCSI commands of a file to each of some nodes: `replay COMMANDS NODE…`. Prints a line
//! for each command: what came of it.

use std::env;
use std::fs;
use std::io::Result;

use tests::scsi::command::{Command, send_all};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((commands, nodes)) = arguments.split_first() else { return Ok(()) };
    let commands = fs::read_to_string(commands)?;
    let commands: Result<Vec<Command>> = commands.lines().map(str::parse).collect();
    print!("{}", send_all(&commands?, nodes)?);
    Ok(())
}
