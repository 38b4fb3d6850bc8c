//! SCSI devices of the host by SG_IO: on a block node, whose kernel maps the segments of data so
//! that nothing is copied, or on an sg node.
//!
//! A block node gives no command less than seven seconds (`BLK_MIN_SG_TIMEOUT`), and refuses data
//! beyond `max_hw_sectors_kb` with EIO and beyond `max_segments` with EINVAL. Where memory is not
//! aligned for the device it copies, and then zeroes what the device did not fill. An sg node
//! keeps to time-outs, copies always (unless its module's `allow_dio` is set), and holds sixteen
//! commands at a time (EDOM for more). Both keep 96 bytes of sense data at most, and have no
//! status qualifier. CDBs of up to 32 bytes go through both, as far as the host's adapter takes
//! them; the host status is ABORT where it does not. A multipath map without a path holds whoever
//! sends, if it is set to queue (`queue_if_no_path`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::open::{self, Device, OpenError, Opened, Options};
use super::sys::{self, Command, NotSent};
use super::sysfs::{BlockNode, Hctl, Ports, ScsiDevice};
use super::{Completion, Data, HostLimits, Request, ScsiHost};
use super::{filter, in_use, privilege};
use crate::backend::lock;
use crate::buffer::{DataBuf, lend};

/// A SCSI device of the host, taken until it is dropped.
#[derive(Debug)]
pub struct SgDevice {
    opened: Opened,
    // The name of the next command, by which an sg node tells it from others.
    next: AtomicU32,
}

impl SgDevice {
    /// Opens the device at `path`, by whichever node or link it is named, and takes it.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used.
    pub fn open(path: &Path, options: &Options) -> Result<SgDevice, OpenError> {
        let opened = open::open(path, options)?;
        if opened.block.is_none() {
            sys::read_by_number(&opened.file).map_err(OpenError::Examine)?;
        }
        Ok(SgDevice { opened, next: AtomicU32::new(0) })
    }

    /// Opens the device at `path` for looking at it: for reading only, whoever uses it, and without
    /// taking anything. Commands that change something are not to be sent to it.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used by anybody.
    pub fn watch(path: &Path) -> Result<SgDevice, OpenError> {
        Ok(SgDevice { opened: open::watch(path)?, next: AtomicU32::new(0) })
    }

    /// Finds out whether [`SgDevice::open`] would succeed. Changes nothing, and takes a block
    /// device for the moment of the question only.
    ///
    /// # Errors
    /// What [`SgDevice::open`] would say.
    pub fn check(path: &Path, options: &Options) -> Result<(), OpenError> {
        open::check(path, options)
    }

    fn is_sg(&self) -> bool {
        self.opened.block.is_none()
    }

    fn send(&self, request: &Request<'_>) -> io::Result<Completion> {
        let command = Command::of(request)?;
        let file = &self.opened.file;
        if !self.is_sg() {
            return command.sg_io(file).map(Completion::from);
        }
        if !self.writable() {
            return command.sg_io_alone(file).map(Completion::from);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match command.write_and_read(file, number) {
            Ok(ended) => Ok(ended.into()),
            // Whoever has other credentials than who opened the node may not write to it.
            Err(NotSent::Refused(error)) if error.raw_os_error() == Some(libc::EPERM) => {
                Command::of(request)?.sg_io_alone(file).map(Completion::from)
            }
            Err(NotSent::Refused(error) | NotSent::Lost(error)) => Err(error),
        }
    }

    /// Receives by a buffer of ours, and hands on what came alone: an sg node fills all of the
    /// segments, with whatever was in the kernel's memory where the device sent nothing.
    fn receive_gathered(
        &self,
        cdb: &[u8],
        data: &mut DataBuf,
        timeout: Duration,
    ) -> io::Result<Completion> {
        let mut bytes = self.buffer(data.len())?;
        let completion =
            lend(&mut bytes, |buf| self.send(&Request { cdb, data: Data::In(buf), timeout }))?;
        let missing = usize::try_from(completion.resid).unwrap_or(0);
        let moved = bytes.len().saturating_sub(missing);
        data.write(bytes.get(..moved).unwrap_or_default());
        Ok(completion)
    }

    /// Sends more segments than a call takes, by a buffer of ours.
    fn transmit_gathered(
        &self,
        cdb: &[u8],
        data: &DataBuf,
        timeout: Duration,
    ) -> io::Result<Completion> {
        let mut bytes = self.buffer(data.len())?;
        data.read(&mut bytes);
        lend(&mut bytes, |buf| self.send(&Request { cdb, data: Data::Out(buf), timeout }))
    }

    /// Memory of our own, no more than goes in one command: EIO for more, as of the kernel.
    fn buffer(&self, len: usize) -> io::Result<Vec<u8>> {
        let most = match &self.opened.block {
            Some(block) => block.limits()?.max_hw_bytes,
            None => sys::sg_max_bytes(&self.opened.file)?.into(),
        };
        if u64::try_from(len).unwrap_or(u64::MAX) > most.min(u32::MAX.into()) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

impl SgDevice {
    /// The node that carries its commands.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.opened.node
    }

    /// Whether the node is open for writing.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.opened.writable
    }

    /// Whether the kernel carries `cdb` for this process, and for this thread of it, rather than
    /// to fail it with EPERM.
    #[must_use]
    pub fn kernel_allows(&self, cdb: &[u8]) -> bool {
        // An sg node that is open for writing takes everything.
        (self.is_sg() && self.writable())
            || filter::kernel_allows(cdb, self.writable())
            || privilege::has_rawio()
    }

    /// All that uses it on the host, as clauses about it: the host itself, and another program.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let host = self.opened.device.block().and_then(|block| in_use::look(&block).err());
        let program = lock::holder_of(self.node());
        let host = host.map(|user| user.to_string());
        host.into_iter().chain(program.map(|holder| format!("is in use by {holder}"))).collect()
    }

    /// Its nodes: that which carries its commands, and the others.
    #[must_use]
    pub fn nodes(&self) -> Vec<PathBuf> {
        let sg = self.device().and_then(ScsiDevice::sg).map(|name| Path::new("/dev").join(name));
        let others = self.opened.device.block().map(|block| block.path()).into_iter().chain(sg);
        let mut nodes = vec![self.node().to_owned()];
        nodes.extend(others.filter(|node| node != self.node()));
        nodes
    }

    /// What sysfs has of it; `None` of a multipath map, which is several devices.
    #[must_use]
    pub fn device(&self) -> Option<&ScsiDevice> {
        match &self.opened.device {
            Device::Scsi(device) => Some(device),
            Device::Multipath(_) => None,
        }
    }

    /// Where the host has it; `None` of a multipath map.
    #[must_use]
    pub fn address(&self) -> Option<Hctl> {
        self.device().map(ScsiDevice::address)
    }

    /// How it is attached to the host: see [`ScsiDevice::transport`]. `None` of a multipath map.
    #[must_use]
    pub fn transport(&self) -> Option<String> {
        self.device().map(ScsiDevice::transport)
    }

    /// By which ports it is reached. A multipath map has several, and none here.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.device().map(ScsiDevice::ports).unwrap_or_default()
    }

    /// The block node, where it is by that that commands go.
    #[must_use]
    pub fn block(&self) -> Option<&BlockNode> {
        self.opened.block.as_ref()
    }

    /// The nodes of the paths of a multipath map, as of now.
    #[must_use]
    pub fn legs(&self) -> Vec<PathBuf> {
        match &self.opened.device {
            Device::Scsi(_) => Vec::new(),
            Device::Multipath(map) => map.legs().iter().map(BlockNode::path).collect(),
        }
    }

    fn sg_limits(&self, device: &ScsiDevice) -> io::Result<HostLimits> {
        let file = &self.opened.file;
        let max_bytes = sys::sg_max_bytes(file)?.into();
        Ok(HostLimits {
            max_bytes,
            max_hw_bytes: max_bytes,
            max_segments: sys::sg_max_segments(file)?,
            alignment: 1,
            queue_depth: device.queue_depth()?.min(sys::SG_MAX_QUEUE),
        })
    }
}

impl ScsiHost for SgDevice {
    fn execute(&self, Request { cdb, data, timeout }: Request<'_>) -> io::Result<Completion> {
        let many = |data: &DataBuf| data.iovecs().len() > sys::MAX_SEGMENTS;
        match data {
            Data::In(data) if self.is_sg() || many(data) => {
                self.receive_gathered(cdb, data, timeout)
            }
            Data::Out(data) if many(data) => self.transmit_gathered(cdb, data, timeout),
            data => self.send(&Request { cdb, data, timeout }),
        }
    }

    fn carries(&self, cdb: &[u8]) -> bool {
        self.kernel_allows(cdb)
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        sys::reset_device(&self.opened.file)
    }

    fn limits(&self) -> io::Result<HostLimits> {
        match (&self.opened.block, &self.opened.device) {
            (Some(block), _) => block.limits(),
            (None, Device::Scsi(device)) => self.sg_limits(device),
            (None, Device::Multipath(map)) => map.limits(),
        }
    }
}

impl AsFd for SgDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.file.as_fd()
    }
}
