//! `scripts/demo` at a terminal, through the nested rig where that is where guests run.

use std::io::Result;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::running::Program;
use tests::terminal::Terminal;

#[test]
fn a_person_at_the_demo_types_interrupts_and_leaves() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo");
    let mut terminal = Terminal::new()?;
    let cooked = terminal.mode()?;
    let mut command = Command::new(script);
    terminal.attach(&mut command)?;
    let mut program = Program::start(command.stderr(Stdio::inherit()))?;
    terminal.try_a_shell()?;
    terminal.type_keys(b"\x01x")?;
    assert_eq!(program.wait()?.code(), Some(1));
    assert_eq!(terminal.mode()?, cooked, "the terminal is as it was");
    Ok(())
}
