//! SCSI commands sent to a node as they are, and all that came of them: the same on the machine
//! that has the device and in a guest that it is passed to, so that both can be compared.
#![expect(unsafe_code, reason = "SG_IO")]

use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::str::FromStr;

/// A command, with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The CDB.
    pub cdb: Vec<u8>,
    /// The data that goes with it.
    pub data: Data,
    /// Milliseconds until the host gives up.
    pub timeout: u32,
}

/// The data of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// There is none.
    None,
    /// Room for so many bytes from the device.
    In(usize),
    /// Bytes to the device.
    Out(Vec<u8>),
}

impl Command {
    /// A command without data.
    #[must_use]
    pub fn none(cdb: &[u8]) -> Command {
        Command { cdb: cdb.into(), data: Data::None, timeout: 60_000 }
    }

    /// A command that reads into `len` bytes.
    #[must_use]
    pub fn read(cdb: &[u8], len: usize) -> Command {
        Command { data: Data::In(len), ..Command::none(cdb) }
    }

    /// A command that sends `bytes`.
    #[must_use]
    pub fn write(cdb: &[u8], bytes: &[u8]) -> Command {
        Command { data: Data::Out(bytes.into()), ..Command::none(cdb) }
    }

    /// INQUIRY for `len` bytes of a VPD page.
    #[must_use]
    pub fn vpd(page: u8, len: u16) -> Command {
        let [high, low] = len.to_be_bytes();
        Command::read(&[0x12, 1, page, high, low, 0], len.into())
    }

    /// Sends it to an sg or a block node.
    ///
    /// # Errors
    /// When the host does not carry it.
    pub fn execute(&self, node: &File) -> Result<Completion> {
        let (direction, mut data) = match &self.data {
            Data::None => (SG_DXFER_NONE, Vec::new()),
            Data::In(len) => (SG_DXFER_FROM_DEV, vec![0; *len]),
            Data::Out(bytes) => (SG_DXFER_TO_DEV, bytes.clone()),
        };
        let mut sense = [0_u8; 252];
        let mut header = SgIoHdr {
            interface_id: b'S'.into(),
            dxfer_direction: direction,
            cmd_len: u8::try_from(self.cdb.len()).map_err(Error::other)?,
            mx_sb_len: 252,
            iovec_count: 0,
            dxfer_len: u32::try_from(data.len()).map_err(Error::other)?,
            dxferp: data.as_mut_ptr(),
            cmdp: self.cdb.as_ptr(),
            sbp: sense.as_mut_ptr(),
            timeout: self.timeout,
            ..SgIoHdr::default()
        };
        // SAFETY: the header's pointers lead to buffers of the lengths beside them, which outlive
        // the call; it returns when the kernel has done with them.
        let result = unsafe { libc::ioctl(node.as_raw_fd(), SG_IO, &raw mut header) };
        if result < 0 {
            return Err(Error::last_os_error());
        }
        let transferred =
            if direction == SG_DXFER_FROM_DEV { std::mem::take(&mut data) } else { Vec::new() };
        Ok(Completion {
            status: header.status,
            host: header.host_status,
            resid: header.resid,
            sense: sense[..usize::from(header.sb_len_wr)].into(),
            data: transferred,
        })
    }
}

/// All that came of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The device's status (SAM-6, status codes).
    pub status: u8,
    /// What became of the way to the device (include/scsi/scsi_status.h of Linux).
    pub host: u16,
    /// Bytes that were not transferred.
    pub resid: i32,
    /// Sense data.
    pub sense: Vec<u8>,
    /// The whole buffer for data from the device, zero where nothing was written.
    pub data: Vec<u8>,
}

impl Completion {
    /// Whether the device said GOOD.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (self.status, self.host) == (0, 0)
    }

    /// Sense key, additional sense code and its qualifier; zeros if there is no sense data
    /// (SPC-6, sense data).
    #[must_use]
    pub fn sense_code(&self) -> (u8, u8, u8) {
        let byte = |at: usize| self.sense.get(at).copied().unwrap_or(0);
        match byte(0) & 0x7f {
            0x72 | 0x73 => (byte(1) & 0x0f, byte(2), byte(3)),
            0x70 | 0x71 => (byte(2) & 0x0f, byte(12), byte(13)),
            _ => (0, 0, 0),
        }
    }

    /// The bytes that the device sent, if the residual is to be believed.
    #[must_use]
    pub fn sent(&self) -> &[u8] {
        let resid = usize::try_from(self.resid).unwrap_or(0);
        &self.data[..self.data.len().saturating_sub(resid)]
    }
}

// ---- lists of them, one on a line ------------------------------------------------------------------

/// Sends each command to each node, and returns a line for each: what came of it.
///
/// # Errors
/// When a node cannot be opened.
pub fn send_all(commands: &[Command], nodes: &[impl AsRef<Path>]) -> Result<String> {
    let mut lines = String::new();
    for node in nodes {
        let file = File::options().read(true).write(true).open(node)?;
        for command in commands {
            lines += &match command.execute(&file) {
                Ok(completion) => format!("{completion}\n"),
                Err(error) => format!("errno {}\n", error.raw_os_error().unwrap_or(0)),
            };
        }
    }
    Ok(lines)
}

impl Display for Command {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let cdb = hex(&self.cdb);
        match &self.data {
            Data::None => write!(formatter, "{cdb} none - {}", self.timeout),
            Data::In(len) => write!(formatter, "{cdb} in {len} {}", self.timeout),
            Data::Out(bytes) => write!(formatter, "{cdb} out {} {}", hex(bytes), self.timeout),
        }
    }
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(line: &str) -> Result<Command> {
        let bad = || Error::new(ErrorKind::InvalidData, format!("not a command: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let [cdb, direction, data, timeout] = words[..] else { return Err(bad()) };
        let data = match direction {
            "none" => Data::None,
            "in" => Data::In(data.parse().map_err(|_| bad())?),
            _ => Data::Out(bytes(data).ok_or_else(bad)?),
        };
        let timeout = timeout.parse().map_err(|_| bad())?;
        Ok(Command { cdb: bytes(cdb).ok_or_else(bad)?, data, timeout })
    }
}

impl Display for Completion {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Completion { status, host, resid, sense, data } = self;
        let (sense, data) = (hex(sense), hex(data));
        write!(
            formatter,
            "status {status:02x} host {host:02x} resid {resid} sense {sense} data {data}"
        )
    }
}

impl FromStr for Completion {
    type Err = Error;

    fn from_str(line: &str) -> Result<Completion> {
        let bad = || Error::new(ErrorKind::InvalidData, format!("not a completion: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let ["status", status, "host", host, "resid", resid, "sense", sense, "data", data] =
            words[..]
        else {
            return Err(bad());
        };
        Ok(Completion {
            status: u8::from_str_radix(status, 16).map_err(|_| bad())?,
            host: u16::from_str_radix(host, 16).map_err(|_| bad())?,
            resid: resid.parse().map_err(|_| bad())?,
            sense: bytes(sense).ok_or_else(bad)?,
            data: bytes(data).ok_or_else(bad)?,
        })
    }
}

/// Bytes in hex, or `-` if there are none.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex == "-" {
        return Some(Vec::new());
    }
    let pairs = (0..hex.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

// ---- scsi/sg.h -----------------------------------------------------------------------------------

const SG_IO: libc::Ioctl = 0x2285;
const SG_DXFER_NONE: i32 = -1;
const SG_DXFER_TO_DEV: i32 = -2;
const SG_DXFER_FROM_DEV: i32 = -3;

/// `sg_io_hdr_t`
#[repr(C)]
struct SgIoHdr {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut u8,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut u8,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

impl Default for SgIoHdr {
    fn default() -> SgIoHdr {
        SgIoHdr {
            interface_id: 0,
            dxfer_direction: SG_DXFER_NONE,
            cmd_len: 0,
            mx_sb_len: 0,
            iovec_count: 0,
            dxfer_len: 0,
            dxferp: ptr::null_mut(),
            cmdp: ptr::null(),
            sbp: ptr::null_mut(),
            timeout: 0,
            flags: 0,
            pack_id: 0,
            usr_ptr: ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_a_line_is_read_again() -> Result<()> {
        for command in [
            Command::none(&[0; 6]),
            Command::vpd(0xb0, 300),
            Command::write(&[0x5f, 0], &[0xff, 0]),
        ] {
            assert_eq!(command.to_string().parse::<Command>()?, command);
        }
        let completion =
            Completion { status: 2, host: 3, resid: -4, sense: vec![0x70], data: vec![] };
        assert_eq!(completion.to_string().parse::<Completion>()?, completion);
        assert!("errno 5".parse::<Completion>().is_err());
        Ok(())
    }

    #[test]
    fn both_formats_of_sense_data_have_a_code() {
        let fixed = [0x70, 0, 0x63, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 2];
        let descriptor = [0x72, 3, 0x11, 2];
        for sense in [&fixed[..], &descriptor] {
            let completion = Completion { sense: sense.into(), ..Completion::default() };
            assert_eq!(completion.sense_code(), (3, 0x11, 2));
        }
        assert_eq!(Completion::default().sense_code(), (0, 0, 0));
    }
}
