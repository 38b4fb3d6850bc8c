//! One connection between a broker and its client: bytes, and descriptors beside them, by a
//! deadline.
//!
//! This file must not know what the bytes mean.
#![expect(unsafe_code, reason = "messages with descriptors")]

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use libc::{c_int, c_short, iovec, msghdr, sockaddr_un, socklen_t};

/// Bytes for the descriptors that come with a message: a header and four of them. Of more, the
/// kernel says that it cut them off.
const CONTROL_LEN: usize = 32;

/// A stream socket that never blocks past a deadline.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// Makes a channel of a connected socket.
    ///
    /// # Errors
    /// The host's own.
    pub fn new(socket: UnixStream) -> io::Result<Channel> {
        socket.set_nonblocking(true)?;
        Ok(Channel(socket))
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// The host's own; `WouldBlock` while too many others wait to be let in.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        let (address, len) = address(path)?;
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: it reads `len` bytes of `address`, which has them.
        match unsafe { libc::connect(fd, (&raw const address).cast(), len) } {
            0 => Ok(Channel(socket.into())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends all of `bytes`, and `fd` beside the first of them.
    ///
    /// # Errors
    /// The host's own; `BrokenPipe` or `ConnectionReset` where the other end is closed, `TimedOut`
    /// where it does not read.
    pub fn send(
        &self,
        mut bytes: &[u8],
        mut fd: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send_some(bytes, fd) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or(&[]);
                    fd = None;
                }
                Err(error) if is_transient(&error) => self.wait(libc::POLLOUT, Some(deadline))?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills `bytes`; a descriptor that comes with them violates the protocol.
    ///
    /// # Errors
    /// As those of [`Channel::receive_with_fd`].
    pub fn receive(&self, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
        match self.receive_with_fd(bytes, deadline)? {
            None => Ok(()),
            Some(_) => Err(violation("a descriptor came that was not asked for")),
        }
    }

    /// Fills `bytes`, and takes the one descriptor that may come with them.
    ///
    /// # Errors
    /// The host's own; `UnexpectedEof` where the other end is closed, `TimedOut` where nothing
    /// comes, `InvalidData` where more than one descriptor comes.
    pub fn receive_with_fd(
        &self,
        bytes: &mut [u8],
        deadline: Instant,
    ) -> io::Result<Option<OwnedFd>> {
        let (mut done, mut found) = (0, None);
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.receive_some(rest) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((received, fds)) => {
                    done += received;
                    for fd in fds {
                        if found.replace(fd).is_some() {
                            return Err(violation("more than one descriptor came"));
                        }
                    }
                }
                Err(error) if is_transient(&error) => self.wait(libc::POLLIN, Some(deadline))?,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Waits for something to receive, or for the other end to close, however long that takes.
    ///
    /// # Errors
    /// The host's own.
    pub fn wait_for_more(&self) -> io::Result<()> {
        while self.is_quiet() {
            self.wait(libc::POLLIN, None)?;
        }
        Ok(())
    }

    /// Whether the other end is there, and has sent nothing that nobody has received.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: it reads and writes the one entry.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
    }

    /// The socket, to shut it down from elsewhere.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.0
    }

    fn wait(&self, events: c_short, deadline: Option<Instant>) -> io::Result<()> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(ErrorKind::TimedOut.into());
        }
        // Rounded up, so that what is left is never nothing too early.
        let millis = left.map_or(-1, |left| {
            c_int::try_from(left.as_millis().saturating_add(1)).unwrap_or(c_int::MAX)
        });
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events, revents: 0 };
        // SAFETY: it reads and writes the one entry.
        match unsafe { libc::poll(&raw mut poll, 1, millis) } {
            -1 => Err(io::Error::last_os_error()).or_else(|error| match error.kind() {
                ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            }),
            _ => Ok(()),
        }
    }

    fn send_some(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut segment =
            iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control::default();
        let mut message = message(&mut segment);
        if let Some(fd) = fd {
            control.put(&mut message, fd.as_raw_fd());
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message names one segment of `bytes` and `control`, both of which live on.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn receive_some(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut segment = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut control = Control::default();
        let mut message = message(&mut segment);
        control.lend(&mut message);
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: the message names one segment of `bytes` and `control`, both of which live on.
        let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has, just now.
        let fds = unsafe { Control::take(&message) };
        if message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(violation("more came beside the bytes than a descriptor"));
        }
        Ok((received, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A breach of the protocol.
pub(super) fn violation(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn address(path: &Path) -> io::Result<(sockaddr_un, socklen_t)> {
    // SAFETY: all its fields are integers.
    let mut address: sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0);
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        let why = "the path of a socket must have less than 108 bytes, and no NUL";
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let len = socklen_t::try_from(size_of::<sockaddr_un>()).unwrap_or(0);
    Ok((address, len))
}

fn message(segment: &mut iovec) -> msghdr {
    // SAFETY: its fields are integers and pointers that may be null.
    let mut message: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = segment;
    message.msg_iovlen = 1;
    message
}

/// Memory for what comes beside the bytes of a message, aligned for its headers.
#[derive(Default)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

impl Control {
    fn lend(&mut self, message: &mut msghdr) {
        message.msg_control = self.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN;
    }

    /// Puts one descriptor beside the bytes.
    fn put(&mut self, message: &mut msghdr, fd: RawFd) {
        const FD_LEN: u32 = RawFd::BITS / 8;
        self.lend(message);
        // SAFETY: the numbers are constants.
        let (space, len) = unsafe { (libc::CMSG_SPACE(FD_LEN), libc::CMSG_LEN(FD_LEN)) };
        message.msg_controllen = space as usize;
        // SAFETY: `message` names this memory, which has room for a header and a descriptor.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = len as usize;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd);
        }
    }

    /// Takes the descriptors that the kernel put beside the bytes of `message`.
    ///
    /// # Safety
    /// The kernel has filled in `message` and the memory for them that it names, and nobody has
    /// taken them yet.
    unsafe fn take(message: &msghdr) -> Vec<OwnedFd> {
        let mut fds = Vec::new();
        // SAFETY: the caller's promise: each header and its data lie within that memory, and the
        // descriptors are new and nobody else's.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_SOCKET
                    && (*header).cmsg_type == libc::SCM_RIGHTS
                {
                    let len = (*header).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                    let data = libc::CMSG_DATA(header).cast::<RawFd>();
                    for index in 0..len / size_of::<RawFd>() {
                        fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                    }
                }
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        fds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::thread;

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn bytes_and_a_descriptor_come_through() {
        let (a, b) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        a.send(b"0123456789abcdef", Some(writer.as_fd()), soon()).unwrap();
        drop(writer);
        let mut bytes = [0; 16];
        let fd = b.receive_with_fd(&mut bytes, soon()).unwrap();
        assert_eq!(&bytes, b"0123456789abcdef");
        io::Write::write_all(&mut File::from(fd.unwrap()), b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn more_than_the_socket_holds_comes_through() {
        let (a, b) = pair();
        let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        let sender = thread::spawn({
            let bytes = bytes.clone();
            move || a.send(&bytes, None, soon()).unwrap()
        });
        let mut seen = vec![0; bytes.len()];
        b.receive(&mut seen, soon()).unwrap();
        assert!(seen == bytes);
        sender.join().unwrap();
    }

    #[test]
    fn an_end_that_is_closed_or_silent_is_an_error() {
        let (a, b) = pair();
        let past = Instant::now();
        assert_eq!(b.receive(&mut [0], past).unwrap_err().kind(), ErrorKind::TimedOut);
        let full = a.send(&vec![0; 4 << 20], None, past).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::TimedOut);
        let (a, b) = pair();
        drop(a);
        assert_eq!(b.receive(&mut [0], soon()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(b.send(&[0], None, soon()).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed() {
        let (a, b) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        a.send(b"a", Some(writer.as_fd()), soon()).unwrap();
        a.send(b"b", Some(writer.as_fd()), soon()).unwrap();
        drop(writer);
        let error = b.receive_with_fd(&mut [0; 2], soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        // Nobody holds the other end any more.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        let long = "x".repeat(108);
        let error = Channel::connect(Path::new(&long)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let nobody = Channel::connect(Path::new("/nonexistent/socket")).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::NotFound);
    }
}
