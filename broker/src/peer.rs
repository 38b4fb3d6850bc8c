//! Who is at the other end of a connection.
//!
//! It owns what the kernel says about that. It must not know what anybody may do.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys;

/// Who connected, as of then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process, or 0 where this one cannot see it.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group, and its supplementary ones.
    pub gids: Vec<u32>,
    /// Its control group, from the root; `None` where it is not known.
    pub cgroup: Option<String>,
}

impl Peer {
    /// Who connected `socket`.
    ///
    /// # Errors
    /// The host's own.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Peer> {
        let peer = sys::peer(socket)?;
        let mut gids = sys::peer_groups(socket);
        gids.insert(0, peer.gid);
        let cgroup = cgroup(socket, peer.pid).ok().flatten();
        Ok(Peer { pid: peer.pid, uid: peer.uid, gids, cgroup })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)?;
        match &self.cgroup {
            Some(cgroup) => write!(f, " in {}", cgroup.escape_debug()),
            None => Ok(()),
        }
    }
}

/// The control group of process `pid`, if that is still the one that connected when it has been
/// read: its number may be another's by then.
fn cgroup(socket: BorrowedFd<'_>, pid: i32) -> io::Result<Option<String>> {
    if pid == 0 {
        return Ok(None);
    }
    let process = sys::peer_process(socket, pid)?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(in_hierarchy(&text).filter(|_| sys::is_alive(&process)))
}

/// The path in the unified hierarchy, or else in that of systemd (cgroups(7), /proc/pid/cgroup).
fn in_hierarchy(text: &str) -> Option<String> {
    let path = |prefix| text.lines().find_map(|line| line.strip_prefix(prefix));
    let systemd = || {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(_, rest)| rest.strip_prefix("name=systemd:"))
    };
    path("0::").or_else(systemd).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn this_process_is_found() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd()).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gids.first(), Some(&nix::unistd::getegid().as_raw()));
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(peer.cgroup, in_hierarchy(&text));
    }

    #[test]
    fn the_unified_hierarchy_comes_first() {
        let hybrid = "4:devices:/a\n1:name=systemd:/b\n0::/c\n";
        assert_eq!(in_hierarchy(hybrid).as_deref(), Some("/c"));
        assert_eq!(in_hierarchy("4:devices:/a\n1:name=systemd:/b:c\n").as_deref(), Some("/b:c"));
        assert_eq!(in_hierarchy("4:devices:/a\n"), None);
        assert_eq!(in_hierarchy(""), None);
    }
}
