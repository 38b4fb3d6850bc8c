//! SCSI devices of the host by SG_IO: on a block node, whose kernel maps the segments of data so
//! that nothing is copied, or on an sg node.
//!
//! A block node gives no command less than seven seconds (`BLK_MIN_SG_TIMEOUT`), and refuses data
//! beyond `max_hw_sectors_kb` with EIO; an sg node does neither, copies, and holds sixteen commands
//! at a time (EDOM for more). Both keep 96 bytes of sense data at most, and have no status qualifier. CDBs of
//! up to 32 bytes go through both, if the host's adapter takes them; it answers ABORT if not.
#![expect(unsafe_code, reason = "segments of data are lent to the kernel")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::iovec;

use super::open::{self, Device, OpenError, Opened, Options};
use super::sys::{self, Command, Direction, Ended, Node, NotSent};
use super::sysfs::{BlockNode, Hctl, Ports, ScsiDevice};
use super::{Completion, Data, HostLimits, HostStatus, Request, ScsiHost};
use super::{filter, in_use, privilege};
use crate::backend::lock;
use crate::scsi::status::Status;

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
        if opened.kind() == Node::Sg {
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

    fn send(
        &self,
        request: &Request<'_>,
        direction: Direction,
        segments: &[iovec],
    ) -> io::Result<Ended> {
        let node = self.opened.kind();
        let make = || {
            // SAFETY: the segments are those of a `DataBuf`, or of a buffer of ours; both are
            // borrowed until the command has ended, and writable where data comes in.
            unsafe { Command::new(node, request.cdb, direction, segments, request.timeout) }
        };
        let command = make()?;
        if node == Node::Block || !self.writable() {
            return command.sg_io(&self.opened.file);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match command.write_and_read(&self.opened.file, number) {
            Ok(ended) => Ok(ended),
            // Whoever has other credentials than who opened the node may not write to it.
            Err(NotSent::Refused(error)) if error.raw_os_error() == Some(libc::EPERM) => {
                make()?.sg_io(&self.opened.file)
            }
            Err(NotSent::Refused(error) | NotSent::Lost(error)) => Err(error),
        }
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
        (self.opened.kind() == Node::Sg && self.writable())
            || filter::kernel_allows(cdb, self.writable())
            || privilege::has_rawio()
    }

    /// All that uses it on the host, as clauses about it: the host itself, and another program.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let host = self.block_node().and_then(|block| in_use::look(&block).err());
        let program = lock::holder_of(self.node());
        let host = host.map(|user| user.to_string());
        host.into_iter().chain(program.map(|holder| format!("is in use by {holder}"))).collect()
    }

    /// Its nodes: that which carries its commands, and the others.
    #[must_use]
    pub fn nodes(&self) -> Vec<PathBuf> {
        let sg = match &self.opened.device {
            Device::Scsi(device) => device.sg().map(|name| Path::new("/dev").join(name)),
            Device::Multipath(_) => None,
        };
        let others = self.block_node().map(|block| block.path()).into_iter().chain(sg);
        let mut nodes = vec![self.node().to_owned()];
        nodes.extend(others.filter(|node| node != self.node()));
        nodes
    }

    fn block_node(&self) -> Option<BlockNode> {
        match &self.opened.device {
            Device::Scsi(device) => device.block(),
            Device::Multipath(map) => Some(map.clone()),
        }
    }

    /// How it is attached to the host: see [`ScsiDevice::transport`].
    #[must_use]
    pub fn transport(&self) -> Option<String> {
        match &self.opened.device {
            Device::Scsi(device) => Some(device.transport()),
            Device::Multipath(_) => None,
        }
    }

    /// Where the host has it; `None` of a multipath map, which is several devices.
    #[must_use]
    pub fn address(&self) -> Option<Hctl> {
        match &self.opened.device {
            Device::Scsi(device) => Some(device.address()),
            Device::Multipath(_) => None,
        }
    }

    /// What sysfs has of it; `None` of a multipath map, which is several devices.
    #[must_use]
    pub fn device(&self) -> Option<&ScsiDevice> {
        match &self.opened.device {
            Device::Scsi(device) => Some(device),
            Device::Multipath(_) => None,
        }
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

    /// By which ports it is reached. A multipath map has several, and none here.
    #[must_use]
    pub fn ports(&self) -> Ports {
        match &self.opened.device {
            Device::Scsi(device) => device.ports(),
            Device::Multipath(_) => Ports::default(),
        }
    }

    /// More segments than a call takes go through one buffer.
    fn send_gathered(&self, mut request: Request<'_>) -> io::Result<Ended> {
        let (len, direction) = match &request.data {
            Data::None => (0, Direction::None),
            Data::In(data) => (data.len(), Direction::In),
            Data::Out(data) => (data.len(), Direction::Out),
        };
        if u64::try_from(len).unwrap_or(u64::MAX) > self.limits()?.max_hw_bytes {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut bytes = vec![0; len];
        if let Data::Out(data) = &request.data {
            data.read(&mut bytes);
        }
        let segment = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        let ended = self.send(&request, direction, &[segment])?;
        if let Data::In(data) = &mut request.data {
            let missing = usize::try_from(ended.resid).unwrap_or(0);
            data.write(bytes.get(..len.saturating_sub(missing)).unwrap_or_default());
        }
        Ok(ended)
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
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        let ended = match &request.data {
            Data::None => self.send(&request, Direction::None, &[]),
            Data::In(data) if data.iovecs().len() <= sys::MAX_SEGMENTS => {
                self.send(&request, Direction::In, data.iovecs())
            }
            Data::Out(data) if data.iovecs().len() <= sys::MAX_SEGMENTS => {
                self.send(&request, Direction::Out, data.iovecs())
            }
            Data::In(_) | Data::Out(_) => self.send_gathered(request),
        }?;
        Ok(Completion {
            status: Status(ended.status),
            sense: ended.sense,
            resid: ended.resid,
            host_status: HostStatus(ended.host_status),
        })
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
