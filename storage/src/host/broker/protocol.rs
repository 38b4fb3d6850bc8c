//! What goes over a broker's socket, as bytes.
//!
//! A connection begins with two words: the broker sends the features that it offers, the client
//! those of them that it wants. Without features it is the protocol of `qemu-pr-helper` (QEMU,
//! Persistent reservation helper protocol), which knows the PERSISTENT RESERVE commands only. With
//! [`EXTENDED`] each request is a [`Header`] and its data, each reply a [`Reply`] and its sense and
//! data. Of requests, one is under way at a time.
//!
//! This file must not know sockets, or who may send what.

use std::time::Duration;

use super::super::{Completion, HostStatus};
use crate::scsi::status::Status;
use crate::scsi::wire::{put_bytes, put_u32, u16_at, u32_at};

/// The feature of requests that say what they are. `qemu-pr-helper` has none; those that QEMU may
/// define begin at the other end of the word.
pub const EXTENDED: u32 = 1 << 31;

/// PERSISTENT RESERVE IN (SPC-6)
pub const PERSISTENT_RESERVE_IN: u8 = 0x5e;
/// PERSISTENT RESERVE OUT (SPC-6)
pub const PERSISTENT_RESERVE_OUT: u8 = 0x5f;

/// Which way the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is none.
    None,
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// The protocol without features.
pub mod plain {
    use super::{Direction, PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT};
    use super::{Status, put_bytes, put_u32, u16_at, u32_at};

    /// Bytes of a request: a CDB, padded with zeros.
    pub const CDB_LEN: usize = 16;
    /// Bytes of sense data in a reply.
    pub const SENSE_LEN: usize = 96;
    /// Bytes of a reply without its data.
    pub const REPLY_LEN: usize = 8 + SENSE_LEN;
    /// The most data that goes with a command, in bytes.
    pub const MAX_DATA: usize = 8192;

    /// Which way data goes with a command, and how much at most: ALLOCATION LENGTH or PARAMETER
    /// LIST LENGTH, in bytes. `None` for a command that the protocol does not carry.
    #[must_use]
    pub fn transfer(cdb: &[u8]) -> Option<(Direction, usize)> {
        let (direction, len) = match *cdb.first()? {
            PERSISTENT_RESERVE_IN => (Direction::In, u16_at(cdb, 7).into()),
            PERSISTENT_RESERVE_OUT => (Direction::Out, u32_at(cdb, 5)),
            _ => return None,
        };
        let len = usize::try_from(len).ok().filter(|&len| len <= MAX_DATA)?;
        Some((direction, len))
    }

    /// The start of a reply, which `data_len` bytes of data follow. Sense data is cut or padded.
    #[must_use]
    pub fn reply(status: Status, sense: &[u8], data_len: u32) -> [u8; REPLY_LEN] {
        let mut bytes = [0; REPLY_LEN];
        put_u32(&mut bytes, 0, status.0.into());
        put_u32(&mut bytes, 4, data_len);
        put_bytes(&mut bytes, 8, sense.get(..SENSE_LEN).unwrap_or(sense));
        bytes
    }

    /// Status, sense data and the length of the data of a reply; `None` where it is none.
    #[must_use]
    pub fn read_reply(bytes: &[u8; REPLY_LEN]) -> Option<(Status, &[u8], usize)> {
        let status = Status(u8::try_from(u32_at(bytes, 0)).ok()?);
        let len = usize::try_from(u32_at(bytes, 4)).ok().filter(|&len| len <= MAX_DATA)?;
        if len > 0 && status != Status::GOOD {
            return None;
        }
        let sense = if status == Status::CHECK_CONDITION { &bytes[8..] } else { &[] };
        Some((status, sense, len))
    }
}

/// What an extended request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Send a command to the logical unit.
    Command,
    /// Say whether [`Kind::Command`] would be refused; the reply is GOOD or the refusal.
    Ask,
    /// Reset the logical unit.
    Reset,
    /// Create a virtual port: the data is a [`Vport`].
    CreateVport,
    /// Delete a virtual port: the data is a [`Vport`].
    DeleteVport,
}

impl Kind {
    const ALL: [Kind; 5] =
        [Kind::Command, Kind::Ask, Kind::Reset, Kind::CreateVport, Kind::DeleteVport];

    fn code(self) -> u8 {
        match self {
            Kind::Command => 1,
            Kind::Ask => 2,
            Kind::Reset => 3,
            Kind::CreateVport => 4,
            Kind::DeleteVport => 5,
        }
    }
}

/// The start of an extended request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it asks for.
    pub kind: Kind,
    /// The CDB of a command, of its own length.
    pub cdb: Vec<u8>,
    /// Which way its data goes.
    pub direction: Direction,
    /// How much at most, in bytes; data to the device follows the header.
    pub len: usize,
    /// How long the command may take.
    pub timeout: Duration,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 44;
    /// The most data, in bytes: that of a COMPARE AND WRITE of 255 blocks of 4096 bytes.
    pub const MAX_DATA: usize = 2 << 20;
    /// The longest CDB, in bytes.
    pub const MAX_CDB: usize = 32;

    /// A request that is not about a command.
    #[must_use]
    pub fn of(kind: Kind, data: &[u8]) -> Header {
        let direction = if data.is_empty() { Direction::None } else { Direction::Out };
        let (cdb, len, timeout) = (Vec::new(), data.len(), Duration::ZERO);
        Header { kind, cdb, direction, len, timeout }
    }

    /// As it is sent: KIND, CDB LENGTH, DIRECTION, a reserved byte, DATA LENGTH, TIME-OUT in
    /// milliseconds, CDB.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Header::LEN] {
        let mut bytes = [0; Header::LEN];
        bytes[0] = self.kind.code();
        bytes[1] = u8::try_from(self.cdb.len()).unwrap_or(u8::MAX);
        bytes[2] = match self.direction {
            Direction::None => 0,
            Direction::In => 1,
            Direction::Out => 2,
        };
        put_u32(&mut bytes, 4, u32::try_from(self.len).unwrap_or(u32::MAX));
        put_u32(&mut bytes, 8, u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX));
        put_bytes(&mut bytes, 12, &self.cdb);
        bytes
    }

    /// Reads what was sent; `None` where it violates the protocol.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Header::LEN]) -> Option<Header> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.code() == bytes[0])?;
        let direction = match bytes[2] {
            0 => Direction::None,
            1 => Direction::In,
            2 => Direction::Out,
            _ => return None,
        };
        let cdb = bytes[12..].get(..usize::from(bytes[1]))?.to_vec();
        let len = usize::try_from(u32_at(bytes, 4)).ok()?;
        let timeout = Duration::from_millis(u32_at(bytes, 8).into());
        let carries_command = matches!(kind, Kind::Command | Kind::Ask);
        let fits = bytes[3] == 0
            && len <= Header::MAX_DATA
            && (len == 0) == (direction == Direction::None)
            && cdb.is_empty() != carries_command
            && (carries_command || direction != Direction::In);
        fits.then_some(Header { kind, cdb, direction, len, timeout })
    }

    /// Bytes of data that follow the header.
    #[must_use]
    pub fn data_len(&self) -> usize {
        let follows = self.direction == Direction::Out && self.kind != Kind::Ask;
        if follows { self.len } else { 0 }
    }
}

/// The reply to an extended request. Its data comes after the sense data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Why the host did not do it, as an errno, or 0.
    pub errno: i32,
    /// How the command ended.
    pub completion: Completion,
    /// Bytes of data.
    pub data_len: usize,
}

impl Reply {
    /// Bytes of the start of a reply.
    pub const LEN: usize = 24;
    /// The longest sense data, in bytes (SPC-6, Sense data).
    pub const MAX_SENSE: usize = 252;

    /// As it is sent, without the data: ERRNO, STATUS, HOST STATUS, RESIDUAL, SENSE LENGTH, DATA
    /// LENGTH, sense data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Completion { status, sense, resid, host_status } = &self.completion;
        let sense = sense.get(..Reply::MAX_SENSE).unwrap_or(sense);
        let words = [
            self.errno.cast_unsigned(),
            status.0.into(),
            host_status.0.into(),
            resid.cast_unsigned(),
            u32::try_from(sense.len()).unwrap_or(0),
            u32::try_from(self.data_len).unwrap_or(0),
        ];
        let words = words.iter().flat_map(|word| word.to_be_bytes());
        words.chain(sense.iter().copied()).collect()
    }

    /// Reads the start of a reply; the sense data is yet to come, and so long. `None` where it
    /// violates the protocol.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Reply::LEN]) -> Option<(Reply, usize)> {
        let sense_len = usize::try_from(u32_at(bytes, 16)).ok()?;
        let data_len = usize::try_from(u32_at(bytes, 20)).ok()?;
        if sense_len > Reply::MAX_SENSE || data_len > Header::MAX_DATA {
            return None;
        }
        let completion = Completion {
            status: Status(u8::try_from(u32_at(bytes, 4)).ok()?),
            sense: Vec::new(),
            resid: u32_at(bytes, 12).cast_signed(),
            host_status: HostStatus(u16::try_from(u32_at(bytes, 8)).ok()?),
        };
        let errno = u32_at(bytes, 0).cast_signed();
        Some((Reply { errno, completion, data_len }, sense_len))
    }
}

/// A virtual port on a Fibre Channel host adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vport {
    /// The host adapter: the number in `/sys/class/fc_host/hostN`.
    pub host: u32,
    /// Port name.
    pub wwpn: u64,
    /// Node name.
    pub wwnn: u64,
}

impl Vport {
    /// The longest text, in bytes.
    pub const MAX_LEN: usize = 49;

    /// The names as the kernel takes them: `wwpn:wwnn`, 16 hex digits each.
    #[must_use]
    pub fn names(&self) -> String {
        format!("{:016x}:{:016x}", self.wwpn, self.wwnn)
    }

    /// As it is sent: `hostN wwpn:wwnn`.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("host{} {}", self.host, self.names())
    }

    /// Reads what was sent, in exactly the form of [`Vport::to_text`].
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Vport> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, names) = text.strip_prefix("host")?.split_once(' ')?;
        let (wwpn, wwnn) = names.split_once(':')?;
        let name = |name| u64::from_str_radix(name, 16).ok();
        let vport = Vport { host: host.parse().ok()?, wwpn: name(wwpn)?, wwnn: name(wwnn)? };
        (vport.to_text() == text).then_some(vport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_lengths_come_from_the_cdb() {
        let report = [0x5e, 0, 0, 0, 0, 0xff, 0xff, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(plain::transfer(&report), Some((Direction::In, 0x102)));
        assert_eq!(plain::transfer(&[0x5e, 1]), Some((Direction::In, 0)));
        let register = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        assert_eq!(plain::transfer(&register), Some((Direction::Out, 24)));
        // All four bytes of PARAMETER LIST LENGTH count.
        assert_eq!(plain::transfer(&[0x5f, 0, 0, 0, 0, 0, 1, 0, 24, 0]), None);
        assert_eq!(plain::transfer(&[0x5f, 0, 0, 0, 0, 0, 0, 0x20, 1, 0]), None);
        assert_eq!(plain::transfer(&[0x89]), None);
        assert_eq!(plain::transfer(&[]), None);
    }

    #[test]
    fn a_plain_reply_is_104_bytes_and_its_data() {
        let sense = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
        let reply = plain::reply(Status::CHECK_CONDITION, &sense, 0);
        assert_eq!(reply.len(), 104);
        assert_eq!(reply[..8], [0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(reply[8..26], sense);
        assert!(reply[26..].iter().all(|&byte| byte == 0));
        let (status, seen, len) = plain::read_reply(&reply).unwrap();
        assert_eq!((status, &seen[..18], len), (Status::CHECK_CONDITION, &sense[..], 0));
        let good = plain::reply(Status::GOOD, &[], 24);
        assert_eq!(good[..8], [0, 0, 0, 0, 0, 0, 0, 24]);
        assert_eq!(plain::read_reply(&good), Some((Status::GOOD, &[][..], 24)));
    }

    #[test]
    fn a_plain_reply_that_lies_is_none() {
        for (status, len) in [(0x100, 0), (0, 8193), (2, 1), (0x18, 8), (0, u32::MAX)] {
            let mut bytes = plain::reply(Status::GOOD, &[], len);
            put_u32(&mut bytes, 0, status);
            assert_eq!(plain::read_reply(&bytes), None, "{status} {len}");
        }
    }

    fn compare_and_write() -> Header {
        let cdb = [&[0x89][..], &[0; 12], &[1, 0, 0]].concat();
        let timeout = Duration::from_secs(5);
        Header { kind: Kind::Command, cdb, direction: Direction::Out, len: 1024, timeout }
    }

    #[test]
    fn a_header_is_44_bytes() {
        let header = compare_and_write();
        let bytes = header.to_bytes();
        assert_eq!(bytes[..13], [1, 16, 2, 0, 0, 0, 4, 0, 0, 0, 0x13, 0x88, 0x89]);
        assert_eq!(Header::from_bytes(&bytes), Some(header));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_none() {
        let changed = |at: usize, value: u8| {
            let mut bytes = compare_and_write().to_bytes();
            bytes[at] = value;
            Header::from_bytes(&bytes)
        };
        assert!(changed(13, 1).is_some());
        for (at, value) in [(0, 0), (0, 3), (0, 6), (1, 0), (1, 33), (2, 0), (2, 3), (3, 1), (4, 1)]
        {
            assert_eq!(changed(at, value), None, "{at} {value}");
        }
    }

    #[test]
    fn only_what_a_device_is_sent_follows_a_header() {
        let header = compare_and_write();
        assert_eq!(header.data_len(), 1024);
        assert_eq!(Header { kind: Kind::Ask, ..header.clone() }.data_len(), 0);
        assert_eq!(Header { direction: Direction::In, ..header }.data_len(), 0);
    }

    #[test]
    fn vports_have_one_spelling() {
        let vport = Vport { host: 5, wwpn: 0x2100_0000_0000_0001, wwnn: 0x2000_0000_0000_0001 };
        let text = "host5 2100000000000001:2000000000000001";
        assert_eq!(vport.to_text(), text);
        assert_eq!(Vport::from_text(text.as_bytes()), Some(vport));
        let longest = Vport { host: u32::MAX, wwpn: u64::MAX, wwnn: 0 }.to_text();
        assert!(longest.len() <= Vport::MAX_LEN);
        for bad in [
            "",
            "host 2100000000000001:2000000000000001",
            "host05 2100000000000001:2000000000000001",
            "host+5 2100000000000001:2000000000000001",
            "host5/../x 2100000000000001:2000000000000001",
            "host5 2100000000000001:200000000000001",
            "host5 +100000000000001:2000000000000001",
            "host5 2100000000000001:2000000000000001\n",
            "host5 2100000000000001:2000000000000001:",
        ] {
            assert_eq!(Vport::from_text(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_sent_the_same(bytes in prop::array::uniform32(any::<u8>())) {
            let mut header = [0; Header::LEN];
            put_bytes(&mut header, 0, &bytes);
            if let Some(read) = Header::from_bytes(&header) {
                prop_assert_eq!(Header::from_bytes(&read.to_bytes()), Some(read));
            }
        }

        #[test]
        fn replies_come_through(
            errno in 0i32..200,
            status in any::<u8>(),
            host in any::<u16>(),
            resid in any::<i32>(),
            data_len in 0usize..=Header::MAX_DATA,
            sense in prop::collection::vec(any::<u8>(), 0..=Reply::MAX_SENSE),
        ) {
            let (status, host_status) = (Status(status), HostStatus(host));
            let completion = Completion { status, sense: sense.clone(), resid, host_status };
            let reply = Reply { errno, completion, data_len };
            let bytes = reply.to_bytes();
            let start = bytes[..Reply::LEN].try_into().unwrap();
            let (mut read, sense_len) = Reply::from_bytes(&start).unwrap();
            prop_assert_eq!(sense_len, sense.len());
            read.completion.sense = bytes[Reply::LEN..].to_vec();
            prop_assert_eq!(read, reply);
        }
    }
}
