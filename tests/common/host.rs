//! What a test does to the machine that it runs on: programs, attributes, modules.
//!
//! A fork is dear on an emulated machine: attributes are written without one.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the machine may take for what it is to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program, and returns what it printed.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::other(format!("{program} {arguments:?}: {stderr}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Loads modules.
///
/// # Errors
/// When one cannot be loaded.
pub fn load(modules: &[&str]) -> Result<()> {
    run("modprobe", &[&["-a"], modules].concat()).map(drop)
}

/// Unloads a module as soon as nobody uses it.
///
/// # Errors
/// When it stays in use.
pub fn unload(module: &str) -> Result<()> {
    await_some(module, || Ok(run("modprobe", &["-r", module]).ok())).map(drop)
}

/// The text of an attribute in sysfs or configfs.
///
/// # Errors
/// What the host says, with the path.
pub fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| at(path, &error))?;
    Ok(text.trim_end_matches('\n').into())
}

/// Writes an attribute in sysfs or configfs, in one piece.
///
/// # Errors
/// What the host says, with the path.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let file = File::options().write(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Waits until `find` finds something.
///
/// # Errors
/// Those of `find`, and when there is nothing for too long.
pub fn await_some<T>(what: &str, mut find: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        match find()? {
            Some(found) => return Ok(found),
            None if start.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
            None => return Err(Error::new(ErrorKind::TimedOut, format!("waited for {what}"))),
        }
    }
}
