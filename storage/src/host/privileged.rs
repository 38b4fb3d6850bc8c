//! A device whose commands go directly where the kernel carries them for this process, and by a
//! broker where it does not.
//!
//! This file must not know which commands those are, or what a broker lets through.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::broker::Broker;
use super::sg::SgDevice;
use super::{Completion, HostLimits, Request, ScsiHost};

/// A device of this process's own.
pub trait Direct: ScsiHost + AsFd {
    /// Whether the kernel carries `cdb` for this process.
    fn kernel_allows(&self, cdb: &[u8]) -> bool;
}

impl Direct for SgDevice {
    fn kernel_allows(&self, cdb: &[u8]) -> bool {
        SgDevice::kernel_allows(self, cdb)
    }
}

/// A device, and the broker for what takes more privilege than this process has.
#[derive(Debug)]
pub struct Privileged {
    device: Arc<dyn Direct>,
    broker: Option<Arc<Broker>>,
}

impl Privileged {
    /// `device` with `broker`, if there is one.
    #[must_use]
    pub fn new(device: Arc<dyn Direct>, broker: Option<Arc<Broker>>) -> Privileged {
        Privileged { device, broker }
    }

    /// Whether a command such as `cdb` can be sent: by the kernel's rules, or by the broker's.
    #[must_use]
    pub fn can(&self, cdb: &[u8]) -> bool {
        self.device.kernel_allows(cdb)
            || self.broker.as_ref().is_some_and(|broker| broker.can(self.device.as_fd(), cdb))
    }
}

impl AsFd for Privileged {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl ScsiHost for Privileged {
    /// # Errors
    /// Besides those of either way: `PermissionDenied` (EPERM) where there is none.
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        match &self.broker {
            Some(broker) if !self.device.kernel_allows(request.cdb) => {
                broker.execute(self.device.as_fd(), request)
            }
            // The kernel refuses it if need be, and nobody knows better.
            _ => self.device.execute(request),
        }
    }

    fn carries(&self, cdb: &[u8]) -> bool {
        self.can(cdb)
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        match (self.device.reset_logical_unit(), &self.broker) {
            (Err(error), Some(broker)) if error.kind() == io::ErrorKind::PermissionDenied => {
                broker.reset_logical_unit(self.device.as_fd())
            }
            (outcome, _) => outcome,
        }
    }

    fn close(&self) {
        self.device.close();
        if let Some(broker) = &self.broker {
            broker.close();
        }
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.device.limits()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::host::Data;

    /// A device that carries what begins with 0, and remembers the rest.
    #[derive(Debug)]
    struct Unprivileged {
        file: File,
        seen: Mutex<Vec<u8>>,
    }

    impl ScsiHost for Unprivileged {
        fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
            self.seen.lock().unwrap().push(request.cdb[0]);
            match request.cdb[0] {
                0 => Ok(Completion::default()),
                _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
            }
        }

        fn carries(&self, cdb: &[u8]) -> bool {
            self.kernel_allows(cdb)
        }

        fn reset_logical_unit(&self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EACCES))
        }

        fn limits(&self) -> io::Result<HostLimits> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl AsFd for Unprivileged {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    impl Direct for Unprivileged {
        fn kernel_allows(&self, cdb: &[u8]) -> bool {
            cdb[0] == 0
        }
    }

    fn device() -> Arc<Unprivileged> {
        Arc::new(Unprivileged { file: File::open("/dev/null").unwrap(), seen: Mutex::default() })
    }

    fn send(host: &Privileged, cdb: &[u8]) -> io::Result<Completion> {
        let timeout = Duration::from_secs(1);
        host.execute(Request { cdb, data: Data::None, timeout })
    }

    #[test]
    fn without_a_broker_the_kernel_has_the_word() {
        let device = device();
        let host = Privileged::new(Arc::clone(&device) as Arc<dyn Direct>, None);
        assert!(send(&host, &[0]).is_ok());
        assert_eq!(send(&host, &[0x5e]).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(host.can(&[0]) && !host.can(&[0x5e]));
        let refused = host.reset_logical_unit().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn only_what_the_kernel_refuses_goes_by_the_broker() {
        let device = device();
        let nobody = Broker::new("/nonexistent/socket".as_ref()).with_reconnect(Duration::ZERO);
        let host = Privileged::new(Arc::clone(&device) as Arc<dyn Direct>, Some(Arc::new(nobody)));
        assert!(send(&host, &[0]).is_ok());
        // The broker's absence is what it says then.
        assert_eq!(send(&host, &[0x5e]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(host.reset_logical_unit().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(*device.seen.lock().unwrap(), [0]);
        assert!(host.can(&[0x5e, 0]) && !host.can(&[0x89]));
        host.close();
        assert_eq!(send(&host, &[0x5e]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
