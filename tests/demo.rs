//! `scripts/demo` at a terminal, through the nested rig where that is where guests run.

use std::io::Result;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::guest::wait;
use tests::terminal::Terminal;

const BOOT: Duration = Duration::from_secs(200);
const ANSWER: Duration = Duration::from_secs(30);

#[test]
fn a_person_at_the_demo_types_interrupts_and_leaves() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo");
    let mut terminal = Terminal::new()?;
    let cooked = terminal.mode()?;
    let mut command = Command::new(script);
    terminal.attach(&mut command)?;
    let mut child = command.stderr(Stdio::inherit()).spawn()?;
    terminal.wait_for(b"# ", BOOT)?;
    terminal.type_keys(b"echo $((6 * 7))\r")?;
    terminal.wait_for(b"\n42\r", ANSWER)?;
    terminal.type_keys(b"sleep 1000\r")?;
    terminal.wait_for(b"sleep 1000\r", ANSWER)?;
    std::thread::sleep(Duration::from_secs(2));
    terminal.type_keys(b"\x03")?;
    terminal.type_keys(b"echo inter''rupted\r")?;
    terminal.wait_for(b"\ninterrupted\r", ANSWER)?;
    terminal.type_keys(b"\x01x")?;
    assert_eq!(wait(&mut child)?.code(), Some(1));
    assert_eq!(terminal.mode()?, cooked, "the terminal is as it was");
    Ok(())
}
