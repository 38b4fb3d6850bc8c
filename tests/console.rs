//! A person at the console of a stock guest.

use std::io::Result;
use std::process::Stdio;

use tests::guest::{ANY, Guest};
use tests::running::Program;
use tests::terminal::Terminal;

#[test]
fn a_shell_takes_commands_and_ctrl_c_and_ctrl_a_x_ends_it_all() -> Result<()> {
    let mut guest = Guest::new(ANY)?;
    guest.lun("disk.img", 1 << 20, "")?;
    let mut terminal = Terminal::new()?;
    let cooked = terminal.mode()?;
    let mut command = guest.command(None)?;
    terminal.attach(&mut command)?;
    let mut program = Program::start(command.stderr(Stdio::inherit()))?;
    terminal.try_a_shell()?;
    assert_ne!(terminal.mode()?, cooked, "raw while the guest runs");
    terminal.type_keys(b"\x01x")?;
    assert_eq!(program.wait()?.code(), Some(1));
    assert_eq!(terminal.mode()?, cooked, "the terminal is as it was");
    Ok(())
}
