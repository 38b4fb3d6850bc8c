//! The socket that clients connect to: one that systemd passes (sd_listen_fds(3)), or a path.

use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Opens the socket.
pub(crate) fn open(path: Option<&Path>) -> Result<UnixListener, String> {
    let listener = match (path, passed()) {
        (Some(_), Some(_)) => {
            return Err("systemd passes a socket; leave --socket out".into());
        }
        (None, None) => {
            return Err("there is no socket; give --socket, or have systemd pass one".into());
        }
        (Some(path), None) => bind(path).map_err(|error| format!("{}: {error}", path.display()))?,
        (None, Some(1)) => inherit().map_err(|error| format!("the passed socket: {error}"))?,
        (None, Some(count)) => {
            return Err(format!("systemd passes {count} sockets; pass one"));
        }
    };
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(listener)
}

/// How many descriptors systemd passes to this process.
fn passed() -> Option<u32> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    (number("LISTEN_PID") == Some(std::process::id())).then(|| number("LISTEN_FDS"))?
}

fn inherit() -> io::Result<UnixListener> {
    let listener = UnixListener::from(broker::passed_descriptor()?);
    // Fails where it is no Unix socket.
    listener.local_addr()?;
    if !broker::listens(&listener)? {
        return Err(io::Error::other(
            "nobody can connect to it; have systemd pass one that listens",
        ));
    }
    Ok(listener)
}

/// Everybody may connect: who may do something, the policy says. A socket that nobody listens on
/// any more is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
            }
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::other("somebody listens there already")),
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}
