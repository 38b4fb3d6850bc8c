//! Commands of our own for which a device may use up a unit attention that was meant for the
//! initiator.

use std::io;
use std::sync::{Mutex, PoisonError};

use crate::host::{Completion, HostLimits, Request, ScsiHost};
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;

/// A way to a device that remembers the unit attentions that came by it.
#[derive(Debug)]
pub(super) struct Overhearing<'a> {
    host: &'a dyn ScsiHost,
    heard: Mutex<Vec<SenseCode>>,
}

impl<'a> Overhearing<'a> {
    pub(super) fn new(host: &'a dyn ScsiHost) -> Overhearing<'a> {
        Overhearing { host, heard: Mutex::default() }
    }

    pub(super) fn into_heard(self) -> Vec<SenseCode> {
        self.heard.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScsiHost for Overhearing<'_> {
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        let completion = self.host.execute(request)?;
        let code = SenseCode::of(&completion.sense);
        let code = code.filter(|_| completion.status == Status::CHECK_CONDITION);
        if let Some(code) = code.filter(|code| code.key == SenseKey::UNIT_ATTENTION) {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(code);
        }
        Ok(completion)
    }

    fn carries(&self, cdb: &[u8]) -> bool {
        self.host.carries(cdb)
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        self.host.reset_logical_unit()
    }

    fn refresh_paths(&self) {
        self.host.refresh_paths();
    }

    fn close(&self) {
        self.host.close();
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.host.limits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that carries nothing but what begins with 0.
    #[derive(Debug)]
    struct Narrow;

    impl ScsiHost for Narrow {
        fn execute(&self, _: Request<'_>) -> io::Result<Completion> {
            Ok(Completion::default())
        }

        fn carries(&self, cdb: &[u8]) -> bool {
            cdb[0] == 0
        }

        fn reset_logical_unit(&self) -> io::Result<()> {
            Ok(())
        }

        fn limits(&self) -> io::Result<HostLimits> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn what_is_not_carried_is_not_carried_overheard_either() {
        let host = Overhearing::new(&Narrow);
        assert!(host.carries(&[0]) && !host.carries(&[0x5f]));
    }
}
