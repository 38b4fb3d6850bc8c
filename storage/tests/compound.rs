//! Commands that take more than one call of a backend: in which pieces, in which order with
//! flushes, and what is told where they fail.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod common;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use common::faulty::{Fault, Faulty};
use common::{Initiator, transfer_16};
use storage::backend::{Backend, Geometry, Medium, Provisioning};
use storage::buffer::DataBuf;
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
use storage::lun::spec::{DiskSpec, WriteCache};
use storage::scsi::sense::{Sense, SenseCode};
use storage::task::Response;
use storage::testing::disk_spec;

const BLOCK: usize = 512;

fn engines() -> Vec<(&'static str, IoContext)> {
    let pool = || Pool::new(3);
    vec![
        ("inline", IoContext::inline()),
        ("pool", IoContext::without_ring(pool()).unwrap()),
        ("default", IoContext::new(32, pool()).unwrap()),
    ]
}

/// What a [`Recorder`] was told to do: at which byte, and with how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read(u64, u64),
    Write(u64, u64),
    Unmap(u64, u64),
    Zero(u64, u64, bool),
    DropCached(u64, u64),
    Flush,
}

/// A host without data that remembers what it is told. It fails where a bad block is touched, and
/// may be one that cannot zero.
#[derive(Debug, Default)]
struct Recorder {
    calls: Mutex<Vec<Call>>,
    bad_byte: Option<u64>,
    zeroes: bool,
    granularity: u32,
}

const HUGE: u64 = 1 << 30;

impl Recorder {
    fn disk(self, write_cache: WriteCache) -> (Arc<Recorder>, Disk) {
        let recorder = Arc::new(self);
        let medium = Medium::new("test", Box::new(RecorderHandle(Arc::clone(&recorder))));
        (recorder, Disk::new(medium, &DiskSpec { write_cache, ..disk_spec() }))
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// Notes a call; says how many bytes of it are good.
    fn note(&self, call: Call, offset: u64, len: u64) -> Result<(), usize> {
        self.calls.lock().unwrap().push(call);
        match self.bad_byte {
            Some(bad) if (offset..offset + len).contains(&bad) => Err((bad - offset) as usize),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct RecorderHandle(Arc<Recorder>);

fn bad_medium() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl RecorderHandle {
    fn transfer(&self, call: Call, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let done = self.0.note(call, offset, data.len() as u64);
        data.advance(done.err().unwrap_or(data.len()));
        done.map_err(|_| bad_medium())
    }
}

impl Backend for RecorderHandle {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: HUGE / BLOCK as u64, block_size: BLOCK as u32 }
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(Call::Read(offset, data.len() as u64), offset, data)
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(Call::Write(offset, data.len() as u64), offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.note(Call::Flush, 0, 0).map_err(|_| bad_medium())
    }

    fn drop_cached(&self, offset: u64, len: u64) {
        self.0.calls.lock().unwrap().push(Call::DropCached(offset, len));
    }

    fn provisioning(&self) -> Provisioning {
        let granularity = Some(self.0.granularity.max(BLOCK as u32));
        Provisioning { unmap_granularity: granularity, unmapped_reads_zero: true }
    }

    fn unmap(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.note(Call::Unmap(offset, len), offset, len).map_err(|_| bad_medium())
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        let call = Call::Zero(offset, len, may_unmap);
        match self.0.zeroes {
            true => self.0.note(call, offset, len).map_err(|_| bad_medium()),
            false => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Runs one command that sends `out`; returns its response.
fn send(disk: &Disk, io: &mut IoContext, cdb: &[u8], out: &[u8]) -> Response {
    let mut initiator = Initiator::new(io);
    let (place, task) = initiator.task(cdb, out, 0);
    initiator.took(disk.submit(task, io));
    initiator.drain(io);
    initiator.answered.remove(&place).unwrap().0
}

fn with_options(opcode: u8, options: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = transfer_16(opcode, false, lba, blocks);
    cdb[1] = options;
    cdb
}

/// An UNMAP of 10 bytes and its parameter list.
fn unmap(ranges: &[(u64, u32)]) -> ([u8; 10], Vec<u8>) {
    let len = ranges.len() as u16 * 16;
    let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    ([0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

const WRITE_SAME: u8 = 0x93;
const VERIFY: u8 = 0x8f;

fn medium_error(code: SenseCode, lba: u64, resid: u32) -> Response {
    Response::check_condition(Sense { information: Some(lba), ..code.into() }, resid)
}

#[test]
fn a_long_command_goes_in_short_pieces() {
    let blocks = (64 << 20) / BLOCK as u32;
    for (name, mut io) in engines() {
        let (host, disk) = Recorder::default().disk(WriteCache::Back);
        let same = with_options(WRITE_SAME, 0, 1, blocks);
        assert_eq!(send(&disk, &mut io, &same, &[1; BLOCK]), Response::good(0), "{name}");
        let mut at = BLOCK as u64;
        for call in host.take() {
            let Call::Write(offset, len) = call else { panic!("{call:?}") };
            assert_eq!(offset, at);
            assert!(len <= 256 << 10);
            at += len;
        }
        assert_eq!(at, BLOCK as u64 + (64 << 20), "{name}");
    }
}

#[test]
fn a_host_that_zeroes_is_left_to_it() {
    for (name, mut io) in engines() {
        for (options, data, may_unmap) in
            [(0, vec![0; BLOCK], false), (8, vec![0; BLOCK], true), (9, vec![], true)]
        {
            let (host, disk) =
                Recorder { zeroes: true, ..Recorder::default() }.disk(WriteCache::Back);
            let same = with_options(WRITE_SAME, options, 8, 16);
            assert_eq!(send(&disk, &mut io, &same, &data), Response::good(0), "{name}");
            assert_eq!(host.take(), [Call::Zero(4096, 8192, may_unmap)], "{name}");
        }
    }
}

#[test]
fn unmapping_divides_no_granule() {
    let granularity = 12 << 20;
    for (name, mut io) in engines() {
        let (host, disk) = Recorder { granularity, ..Recorder::default() }.disk(WriteCache::Back);
        let (cdb, list) = unmap(&[(1, (30 << 20) / BLOCK as u32), (0, 1)]);
        assert_eq!(send(&disk, &mut io, &cdb, &list), Response::good(0), "{name}");
        let mib = |n: u64| n << 20;
        let expected = [
            Call::Unmap(512, mib(12) - 512),
            Call::Unmap(mib(12), mib(12)),
            Call::Unmap(mib(24), mib(6) + 512),
            Call::Unmap(0, 512),
        ];
        assert_eq!(host.take(), expected, "{name}");
    }
}

#[test]
fn without_a_write_cache_everything_is_flushed_before_it_is_answered() {
    for (name, mut io) in engines() {
        let (host, disk) =
            Recorder { zeroes: true, ..Recorder::default() }.disk(WriteCache::Through);
        let mut sees = |cdb: &[u8], out: &[u8], call: Call| {
            assert_eq!(send(&disk, &mut io, cdb, out), Response::good(0), "{name}");
            assert_eq!(host.take(), [call, Call::Flush], "{name}");
        };
        sees(&transfer_16(0x8a, false, 0, 1), &[1; BLOCK], Call::Write(0, 512));
        sees(&with_options(WRITE_SAME, 0, 0, 1), &[1; BLOCK], Call::Write(0, 512));
        sees(&with_options(WRITE_SAME, 1, 0, 1), &[], Call::Zero(0, 512, false));
        let (cdb, list) = unmap(&[(2, 1)]);
        sees(&cdb, &list, Call::Unmap(1024, 512));
    }
}

#[test]
fn turning_the_write_cache_off_makes_earlier_writes_stable() {
    // MODE SELECT(6) of the Caching page without WCE.
    let list = [&[0, 0, 0, 0, 0x08, 18][..], &[0; 18]].concat();
    let select = [0x15, 0x10, 0, 0, list.len() as u8, 0];
    for (name, mut io) in engines() {
        let (host, disk) = Recorder::default().disk(WriteCache::Back);
        for _first_and_again in 0..2 {
            assert_eq!(send(&disk, &mut io, &select, &list), Response::good(0), "{name}");
            assert_eq!(host.take(), [Call::Flush], "{name}");
        }
        let write = transfer_16(0x8a, false, 0, 1);
        assert_eq!(send(&disk, &mut io, &write, &[1; BLOCK]), Response::good(0), "{name}");
        assert_eq!(host.take(), [Call::Write(0, 512), Call::Flush], "{name}");
    }
}

#[test]
fn verify_reads_what_is_stable() {
    for (name, mut io) in engines() {
        let (host, disk) = Recorder::default().disk(WriteCache::Back);
        let verify = with_options(VERIFY, 0, 1, 600);
        assert_eq!(send(&disk, &mut io, &verify, &[]), Response::good(0), "{name}");
        let (first, piece) = (512, 256 << 10);
        let expected = [
            Call::Flush,
            Call::DropCached(first, 600 * 512),
            Call::Read(first, piece - first),
            Call::Read(piece, 600 * 512 - piece + first),
        ];
        assert_eq!(host.take(), expected, "{name}");
    }
}

#[test]
fn a_read_with_fua_reads_what_is_stable() {
    for (name, mut io) in engines() {
        let (host, disk) = Recorder::default().disk(WriteCache::Back);
        for (fua, before) in
            [(false, &[][..]), (true, &[Call::Flush, Call::DropCached(1024, 1536)])]
        {
            let mut initiator = Initiator::new(&mut io);
            let (_, task) = initiator.task(&transfer_16(0x88, fua, 2, 3), &[], 3 * BLOCK + 9);
            initiator.took(disk.submit(task, &mut io));
            initiator.drain(&mut io);
            assert_eq!(host.take(), [before, &[Call::Read(1024, 1536)]].concat(), "{name}");
        }
    }
}

#[test]
fn a_bad_block_is_named_by_whatever_touches_it() {
    let bad_lba = 1000;
    let bad_byte = Some(bad_lba * BLOCK as u64 + 17);
    let (read, write) = (SenseCode::UNRECOVERED_READ_ERROR, SenseCode::WRITE_ERROR);
    for (name, mut io) in engines() {
        let mut failed = |zeroes, cdb: &[u8], out: &[u8]| {
            let (_, disk) =
                Recorder { bad_byte, zeroes, ..Recorder::default() }.disk(WriteCache::Back);
            send(&disk, &mut io, cdb, out)
        };
        let data = vec![0; 1200 * BLOCK];
        let verify = |options| with_options(VERIFY, options, 0, 1200);
        assert_eq!(failed(false, &verify(0), &[]), medium_error(read, 1000, 0), "{name}");
        // One piece was compared before.
        let left = (1200 - 512) * BLOCK as u32;
        assert_eq!(failed(false, &verify(2), &data), medium_error(read, 1000, left), "{name}");
        let same = with_options(WRITE_SAME, 0, 0, 1200);
        assert_eq!(failed(false, &same, &[7; BLOCK]), medium_error(write, 1000, 0), "{name}");
        assert_eq!(failed(false, &same, &[0; BLOCK]), medium_error(write, 1000, 0), "{name}");
        // Of what the host does itself, nobody knows how far it came.
        assert_eq!(failed(true, &same, &[0; BLOCK]), medium_error(write, 0, 0), "{name}");
        let (cdb, list) = unmap(&[(5, 1), (990, 20)]);
        assert_eq!(failed(true, &cdb, &list), medium_error(write, 990, 0), "{name}");
        let moved = (10 * BLOCK + 17) as u32;
        let left = 20 * BLOCK as u32 - moved;
        let seen = failed(true, &transfer_16(0x8a, false, 990, 20), &[1; 20 * BLOCK]);
        assert_eq!(seen, medium_error(write, 1000, left), "{name}");
    }
}

#[test]
fn a_flush_that_fails_at_the_end_of_a_long_command_loses_writes_too() {
    for (name, mut io) in engines() {
        let (host, faults) = Faulty::new(Geometry { blocks: 8, block_size: BLOCK as u32 });
        *faults.flush.lock().unwrap() = Some(Fault::errno(libc::EIO));
        let spec = DiskSpec { write_cache: WriteCache::Through, ..disk_spec() };
        let disk = Disk::new(Medium::new("test", Box::new(host)), &spec);
        let same = with_options(WRITE_SAME, 0, 0, 4);
        let lost = Response::check_condition(SenseCode::WRITE_ERROR, 0);
        assert_eq!(send(&disk, &mut io, &same, &[7; BLOCK]), lost, "{name}");
        *faults.flush.lock().unwrap() = None;
        let refused = Response::check_condition(SenseCode::WRITE_ERROR, BLOCK as u32);
        assert_eq!(send(&disk, &mut io, &same, &[7; BLOCK]), refused, "{name}");
    }
}
