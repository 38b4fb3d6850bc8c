//! Events of the host's devices, as the kernel broadcasts them (NETLINK_KOBJECT_UEVENT).
//!
//! Anybody may listen. What another process sends is not believed. A process in a network
//! namespace of its own user namespace hears nothing.
#![expect(unsafe_code, reason = "netlink sockets are not in the standard library")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_void, sockaddr_nl, socklen_t};

use super::sysfs::Hctl;

/// The multicast group in which the kernel speaks; udev speaks in another.
const KERNEL_GROUP: u32 = 1;

/// Bytes of the longest message with room to spare: the kernel's buffer has 2048, and a header.
const MESSAGE: usize = 8192;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a device.
    Device(Uevent),
    /// Events were lost: everything may have changed.
    Missed,
}

/// What happened to one device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    fields: Vec<(String, String)>,
}

impl Uevent {
    /// Reads `action@devpath` and `KEY=VALUE`s, each ended by a NUL. `None` where it is no event
    /// of a device.
    pub(crate) fn parse(message: &[u8]) -> Option<Uevent> {
        let mut strings = message.split(|byte| *byte == 0);
        let header = strings.next()?;
        if !header.contains(&b'@') {
            return None;
        }
        let field = |string: &[u8]| {
            let text = String::from_utf8_lossy(string);
            let (key, value) = text.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        };
        let event = Uevent { fields: strings.filter_map(field).collect() };
        (event.get("ACTION").is_some() && event.get("DEVPATH").is_some()).then_some(event)
    }

    /// A field by its name: `SDEV_UA`, `DEVTYPE`, `DEVNAME`, `RESIZE`, …
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What happened: `add`, `remove`, `change`, `bind`, …
    #[must_use]
    pub fn action(&self) -> &str {
        self.get("ACTION").unwrap_or_default()
    }

    /// Where the device is below the root of sysfs.
    #[must_use]
    pub fn devpath(&self) -> &str {
        self.get("DEVPATH").unwrap_or_default()
    }

    /// What kind of device: `scsi`, `block`, `scsi_generic`, …
    #[must_use]
    pub fn subsystem(&self) -> &str {
        self.get("SUBSYSTEM").unwrap_or_default()
    }

    /// The SCSI device to which it happened, or to a part of which.
    #[must_use]
    pub fn address(&self) -> Option<Hctl> {
        self.devpath().rsplit('/').find_map(|name| name.parse().ok())
    }
}

/// Hears all events of the host's devices from when it is made.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// # Errors
    /// The kernel's, where it has no such events or lets nobody listen.
    pub fn listen() -> io::Result<Uevents> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed.
        let fd =
            checked(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
        // SAFETY: it was just opened, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = address(0, KERNEL_GROUP);
        // SAFETY: the address is ours, and as long as it says.
        checked(unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), address_len())
        })?;
        Ok(Uevents { socket })
    }

    /// Waits for the next event; `None` after `timeout`, or sooner if a signal comes.
    ///
    /// # Errors
    /// The kernel's, other than that events were lost.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<Event>> {
        if let Some(event) = self.try_next()? {
            return Ok(Some(event));
        }
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        let milliseconds = c_int::try_from(milliseconds).unwrap_or(c_int::MAX);
        // SAFETY: one entry, which is ours.
        match checked(unsafe { libc::poll(&raw mut poll, 1, milliseconds) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
            Ok(0) => Ok(None),
            Ok(_) => self.try_next(),
        }
    }

    /// The next event that is there; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's, other than that events were lost.
    pub fn try_next(&self) -> io::Result<Option<Event>> {
        let mut message = [0; MESSAGE];
        loop {
            let (len, sender) = match self.receive(&mut message) {
                Ok(received) => received,
                Err(error) => return lost_or_none(error),
            };
            if sender.nl_pid != 0 || sender.nl_groups & KERNEL_GROUP == 0 {
                continue;
            }
            match message.get(..len).map(Uevent::parse) {
                None => return Ok(Some(Event::Missed)),
                Some(Some(event)) => return Ok(Some(Event::Device(event))),
                Some(None) => {}
            }
        }
    }

    /// A message's length, even where it was cut, and who sent it.
    fn receive(&self, message: &mut [u8]) -> io::Result<(usize, sockaddr_nl)> {
        let (mut sender, mut sender_len) = (address(u32::MAX, 0), address_len());
        let (fd, buffer) = (self.socket.as_raw_fd(), message.as_mut_ptr().cast::<c_void>());
        let from = (&raw mut sender).cast();
        // SAFETY: both buffers are ours, and as long as is said.
        let received = unsafe {
            libc::recvfrom(fd, buffer, message.len(), libc::MSG_TRUNC, from, &raw mut sender_len)
        };
        let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok((len, sender))
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn lost_or_none(error: io::Error) -> io::Result<Option<Event>> {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => Ok(Some(Event::Missed)),
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

fn address(nl_pid: u32, nl_groups: u32) -> sockaddr_nl {
    // SAFETY: all its fields are integers.
    let mut address: sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
    address.nl_family = libc::AF_NETLINK.try_into().unwrap_or_default();
    address.nl_pid = nl_pid;
    address.nl_groups = nl_groups;
    address
}

fn address_len() -> socklen_t {
    size_of::<sockaddr_nl>().try_into().unwrap_or_default()
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESIZED: &[u8] = b"change@/devices/pseudo_0/adapter0/host2/target2:0:0/2:0:0:7\0\
        ACTION=change\0DEVPATH=/devices/pseudo_0/adapter0/host2/target2:0:0/2:0:0:7\0\
        SUBSYSTEM=scsi\0SDEV_UA=CAPACITY_DATA_HAS_CHANGED\0DEVTYPE=scsi_device\0\
        MODALIAS=scsi:t-0x00\0SEQNUM=1234\0";

    #[test]
    fn the_fields_of_an_event_are_read() {
        let event = Uevent::parse(RESIZED).unwrap();
        assert_eq!((event.action(), event.subsystem()), ("change", "scsi"));
        assert_eq!(event.get("SDEV_UA"), Some("CAPACITY_DATA_HAS_CHANGED"));
        assert_eq!(event.get("DEVTYPE"), Some("scsi_device"));
        assert_eq!(event.get("NAME"), None);
        assert_eq!(event.address(), Some(Hctl { host: 2, channel: 0, target: 0, lun: 7 }));
    }

    #[test]
    fn an_event_of_a_part_is_its_device_s() {
        let text = b"remove@/x\0ACTION=remove\0DEVPATH=/devices/2:0:0:7/block/sda/sda1\0";
        let event = Uevent::parse(text).unwrap();
        assert_eq!(event.address().map(|address| address.to_string()), Some("2:0:0:7".into()));
        let text = b"add@/x\0ACTION=add\0DEVPATH=/devices/virtual/block/loop0\0";
        assert_eq!(Uevent::parse(text).unwrap().address(), None);
    }

    #[test]
    fn junk_is_no_event() {
        let junk: [&[u8]; 6] = [
            b"",
            b"\0\0\0",
            b"libudev\0\xfe\xed\xca\xfe",
            b"add@/x",
            b"add@/x\0ACTION=add\0",
            b"add@/x\0=add\0DEVPATH=/x\0",
        ];
        for message in junk {
            assert_eq!(Uevent::parse(message), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Uevent::parse(&message);
        }

        #[test]
        fn a_cut_message_is_read_as_far_as_it_goes(len in 0..RESIZED.len()) {
            let _ = Uevent::parse(&RESIZED[..len]).map(|event| event.address());
        }
    }

    #[test]
    fn events_lost_are_told_and_nothing_is_no_error() {
        let of = |number| lost_or_none(io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::ENOBUFS).unwrap(), Some(Event::Missed));
        assert_eq!(of(libc::EAGAIN).unwrap(), None);
        assert!(of(libc::EBADF).is_err());
    }

    #[test]
    fn what_a_process_sends_is_not_believed() {
        let events = Uevents::listen().unwrap();
        let (mut own, mut len) = (address(u32::MAX, 0), address_len());
        let fd = events.socket.as_raw_fd();
        // SAFETY: the address is ours, and as long as is said; so are the message and its length.
        let sent = unsafe {
            libc::getsockname(fd, (&raw mut own).cast(), &raw mut len);
            let to = address(own.nl_pid, 0);
            let (message, to) = (RESIZED.as_ptr().cast(), &raw const to);
            libc::sendto(fd, message, RESIZED.len(), 0, to.cast(), address_len())
        };
        // Some kernels do not even carry it.
        if sent > 0 {
            let heard = events.wait(Duration::from_millis(50)).unwrap();
            let forged = Uevent::parse(RESIZED).map(Event::Device);
            assert_ne!(heard, forged);
        }
    }
}
