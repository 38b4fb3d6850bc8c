//! Runs a command, and all that it starts, as on a host that does not allow io_uring.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use tests::seccomp::forbid_io_uring;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: without_io_uring COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let error = forbid_io_uring(Command::new(&program).args(arguments)).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::from(127)
}
