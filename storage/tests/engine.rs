//! One trace of commands on every engine must have one outcome, and a failing host must show.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod common;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Initiator, transfer_16};
use proptest::prelude::*;
use storage::backend::{Backend, Geometry, Medium, Memory, Provisioning, RawFile};
use storage::buffer::DataBuf;
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
use storage::lun::spec::{LunSpec, WriteCache};
use storage::scsi::sense::{Sense, SenseCode};
use storage::scsi::status::Status;
use storage::task::Response;
use storage::testing::disk_spec;

const BLOCKS: u64 = 64;
const BLOCK: usize = 512;

fn engines() -> Vec<(&'static str, IoContext)> {
    let pool = || Pool::new(3);
    vec![
        ("inline", IoContext::inline()),
        ("pool", IoContext::without_ring(pool()).unwrap()),
        ("default", IoContext::new(32, pool()).unwrap()),
    ]
}

fn image() -> (tempfile::NamedTempFile, Disk) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(BLOCKS * BLOCK as u64).unwrap();
    let backend = RawFile::open(file.path(), false, BLOCK as u32).unwrap();
    (file, Disk::new(Medium::new("test", Box::new(backend)), &disk_spec()))
}

#[derive(Clone, Debug)]
enum Op {
    Read { lba: u64, blocks: u32, fua: bool, room: usize },
    Write { lba: u64, blocks: u32, fua: bool, fill: u8 },
    Same { lba: u64, blocks: u32, fill: u8 },
    Verify { lba: u64, blocks: u32, bytchk: u8, fill: u8 },
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let read = (0..BLOCKS + 2, 0u32..20, any::<bool>(), 0usize..12_000)
        .prop_map(|(lba, blocks, fua, room)| Op::Read { lba, blocks, fua, room });
    let write = (0..BLOCKS + 2, 0u32..20, any::<bool>(), any::<u8>())
        .prop_map(|(lba, blocks, fua, fill)| Op::Write { lba, blocks, fua, fill });
    // Few values, so that some blocks are as they are expected.
    let same = (0..BLOCKS + 2, 0u32..20, 0u8..2).prop_map(|(lba, blocks, fill)| Op::Same {
        lba,
        blocks,
        fill,
    });
    let verify = (0..BLOCKS + 2, 0u32..20, 0u8..4, 0u8..2)
        .prop_map(|(lba, blocks, bytchk, fill)| Op::Verify { lba, blocks, bytchk, fill });
    prop_oneof![4 => read, 3 => write, 3 => same, 3 => verify, 1 => Just(Op::Flush)]
}

/// Runs `ops` one after the other; returns what the initiator saw.
fn run(disk: &Disk, io: &mut IoContext, ops: &[Op]) -> Vec<(Response, Vec<u8>)> {
    let mut initiator = Initiator::new(io);
    for op in ops {
        let (_, task) = match *op {
            Op::Read { lba, blocks, fua, room } => {
                initiator.task(&transfer_16(0x88, fua, lba, blocks), &[], room)
            }
            Op::Write { lba, blocks, fua, fill } => {
                let data = vec![fill; blocks as usize * BLOCK + 7];
                initiator.task(&transfer_16(0x8a, fua, lba, blocks), &data, 0)
            }
            Op::Same { lba, blocks, fill } => {
                let mut cdb = transfer_16(0x93, false, lba, blocks);
                // NDOB
                cdb[1] |= u8::from(fill == 0);
                initiator.task(&cdb, &[fill; BLOCK], 0)
            }
            Op::Verify { lba, blocks, bytchk, fill } => {
                let mut cdb = transfer_16(0x8f, false, lba, blocks);
                cdb[1] |= bytchk << 1;
                initiator.task(&cdb, &vec![fill; blocks as usize * BLOCK + 7], 0)
            }
            Op::Flush => initiator.task(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0),
        };
        initiator.took(disk.submit(task, io));
        initiator.drain(io);
    }
    (0..ops.len() as u32).map(|place| initiator.answered.remove(&place).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_engine_agrees_with_memory(ops in prop::collection::vec(op(), 1..24)) {
        let geometry = Geometry { blocks: BLOCKS, block_size: BLOCK as u32 };
        let model = Disk::new(Medium::new("test", Box::new(Memory::new(geometry))), &disk_spec());
        let expected = run(&model, &mut IoContext::inline(), &ops);
        for (name, mut io) in engines() {
            let (_file, disk) = image();
            prop_assert_eq!(&run(&disk, &mut io, &ops), &expected, "{}", name);
        }
    }
}

/// More transfers at once than the ring has places.
#[test]
fn deep_queues_keep_their_data_apart() {
    for (name, mut io) in engines() {
        let (_file, disk) = image();
        let mut initiator = Initiator::new(&mut io);
        for lba in 0..BLOCKS {
            let data = [lba as u8; BLOCK];
            let (_, task) = initiator.task(&transfer_16(0x8a, false, lba, 1), &data, 0);
            initiator.took(disk.submit(task, &mut io));
        }
        initiator.drain(&mut io);
        let mut places = Vec::new();
        for lba in 0..BLOCKS {
            let (place, task) = initiator.task(&transfer_16(0x88, false, lba, 1), &[], BLOCK);
            places.push(place);
            initiator.took(disk.submit(task, &mut io));
        }
        initiator.drain(&mut io);
        for (lba, place) in places.into_iter().enumerate() {
            let read = initiator.answered.remove(&place).unwrap();
            assert_eq!(read, (Response::good(0), vec![lba as u8; BLOCK]), "{name} {lba}");
        }
    }
}

#[test]
fn an_image_that_became_shorter_is_a_medium_error() {
    for (name, mut io) in engines() {
        let (file, disk) = image();
        file.as_file().set_len(BLOCK as u64 * 3 / 2).unwrap();
        let seen = run(&disk, &mut io, &[Op::Read { lba: 0, blocks: 4, fua: false, room: 2048 }]);
        let code = SenseCode::UNRECOVERED_READ_ERROR;
        let sense = Sense { information: Some(1), ..code.into() };
        let expected = Response::check_condition(sense, 2048 - BLOCK as u32 * 3 / 2);
        assert_eq!(seen[0].0, expected, "{name}");
    }
}

/// A host that fails what it is told to fail.
#[derive(Debug, Default)]
struct Faulty {
    errno: Mutex<Option<i32>>,
    flush_errno: Mutex<Option<i32>>,
    flushes: AtomicUsize,
}

impl Faulty {
    fn outcome(&self) -> io::Result<()> {
        outcome(&self.errno)
    }
}

fn outcome(errno: &Mutex<Option<i32>>) -> io::Result<()> {
    errno.lock().unwrap().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

#[derive(Debug)]
struct Host(Arc<Faulty>);

impl Backend for Host {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: BLOCKS, block_size: BLOCK as u32 }
    }

    fn read(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        self.0.outcome().inspect(|()| data.advance(data.len()))
    }

    fn write(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        self.0.outcome().inspect(|()| data.advance(data.len()))
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flushes.fetch_add(1, Ordering::SeqCst);
        self.0.outcome().and(outcome(&self.0.flush_errno))
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

const WRITE: Op = Op::Write { lba: 0, blocks: 1, fua: false, fill: 0 };
const WRITE_FUA: Op = Op::Write { lba: 0, blocks: 1, fua: true, fill: 0 };
const READ: Op = Op::Read { lba: 0, blocks: 1, fua: false, room: 512 };
const READ_FUA: Op = Op::Read { lba: 0, blocks: 1, fua: true, room: 512 };

fn status(seen: &(Response, Vec<u8>)) -> (Status, Option<SenseCode>) {
    match seen.0 {
        Response::Status { status, sense, .. } => (status, sense.map(|sense| sense.code)),
        Response::Failed(why) => panic!("{why:?}"),
    }
}

#[test]
fn after_a_failed_flush_nothing_is_written_any_more() {
    let write_error = (Status::CHECK_CONDITION, Some(SenseCode::WRITE_ERROR));
    for (name, mut io) in engines() {
        for sync in [Op::Flush, WRITE_FUA] {
            let host = Arc::new(Faulty::default());
            let disk =
                Disk::new(Medium::new("test", Box::new(Host(Arc::clone(&host)))), &disk_spec());
            *host.flush_errno.lock().unwrap() = Some(libc::EIO);
            let failed = run(&disk, &mut io, std::slice::from_ref(&sync));
            assert_eq!(status(&failed[0]), write_error, "{name} {sync:?}");
            *host.flush_errno.lock().unwrap() = None;
            let after = run(&disk, &mut io, &[WRITE, Op::Flush, WRITE_FUA, READ]);
            for refused in &after[..3] {
                assert_eq!(status(refused), write_error, "{name} {sync:?}");
            }
            assert_eq!(status(&after[3]), (Status::GOOD, None));
        }
    }
}

#[test]
fn an_ordinary_error_is_told_once_and_forgotten() {
    for ((name, mut io), write) in engines().into_iter().zip([WRITE, WRITE_FUA, WRITE_FUA]) {
        let host = Arc::new(Faulty::default());
        let disk = Disk::new(Medium::new("test", Box::new(Host(Arc::clone(&host)))), &disk_spec());
        *host.errno.lock().unwrap() = Some(libc::ENOSPC);
        let failed = run(&disk, &mut io, std::slice::from_ref(&write));
        let full = SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT;
        assert_eq!(status(&failed[0]), (Status::CHECK_CONDITION, Some(full)), "{name}");
        *host.errno.lock().unwrap() = None;
        assert_eq!(status(&run(&disk, &mut io, &[write])[0]), (Status::GOOD, None), "{name}");
    }
}

#[test]
fn a_flush_that_the_host_has_no_memory_for_loses_nothing() {
    for (name, mut io) in engines() {
        let host = Arc::new(Faulty::default());
        let disk = Disk::new(Medium::new("test", Box::new(Host(Arc::clone(&host)))), &disk_spec());
        *host.errno.lock().unwrap() = Some(libc::ENOMEM);
        assert_eq!(status(&run(&disk, &mut io, &[Op::Flush])[0]), (Status::BUSY, None), "{name}");
        *host.errno.lock().unwrap() = None;
        assert_eq!(status(&run(&disk, &mut io, &[Op::Flush])[0]), (Status::GOOD, None), "{name}");
    }
}

/// A file that is always full, and that cannot be flushed: for the ring, which takes its
/// descriptor.
#[derive(Debug)]
struct Full(File);

impl Backend for Full {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: BLOCKS, block_size: BLOCK as u32 }
    }

    fn read(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        data.advance(data.len());
        Ok(())
    }

    fn write(&self, _: u64, _: &mut DataBuf) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

#[test]
fn errors_of_a_descriptor_are_told_by_every_engine_alike() {
    for (name, mut io) in engines() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let disk = Disk::new(Medium::new("/dev/full", Box::new(Full(full))), &disk_spec());
        let seen = run(&disk, &mut io, &[WRITE, WRITE_FUA, READ, Op::Flush, WRITE, READ]);
        let check = |code| (Status::CHECK_CONDITION, Some(code));
        let full = check(SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT);
        let expected = [
            full,
            full,
            (Status::GOOD, None),
            check(SenseCode::INTERNAL_TARGET_FAILURE),
            check(SenseCode::WRITE_ERROR),
            (Status::GOOD, None),
        ];
        assert_eq!(seen.iter().map(status).collect::<Vec<_>>(), expected, "{name}");
    }
}

/// Whether this host lets us have a ring: without memory for its parameters the call fails with
/// EFAULT if so.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
fn io_uring_is_allowed() -> bool {
    // SAFETY: the kernel refuses the null pointer.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[test]
fn the_default_engine_is_a_ring_wherever_one_is_allowed() {
    let io = IoContext::new(32, Pool::new(1)).unwrap();
    assert_eq!(format!("{io:?}").contains("Ring("), io_uring_is_allowed(), "{io:?}");
}

#[test]
fn a_read_with_fua_flushes_first() {
    for (name, mut io) in engines() {
        let host = Arc::new(Faulty::default());
        let disk = Disk::new(Medium::new("test", Box::new(Host(Arc::clone(&host)))), &disk_spec());
        run(&disk, &mut io, &[READ]);
        assert_eq!(host.flushes.load(Ordering::SeqCst), 0, "{name}");
        run(&disk, &mut io, &[READ_FUA]);
        assert_eq!(host.flushes.load(Ordering::SeqCst), 1, "{name}");
    }
}

/// What a [`Recorder`] was told to do: at which byte, and with how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read(u64, u64),
    Write(u64, u64),
    Unmap(u64, u64),
    Zero(u64, u64, bool),
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
        (recorder, Disk::new(medium, &LunSpec { write_cache, ..disk_spec() }))
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
        assert_eq!(send(&disk, &mut io, &select, &list), Response::good(0), "{name}");
        assert_eq!(host.take(), [Call::Flush], "{name}");
        assert_eq!(send(&disk, &mut io, &select, &list), Response::good(0), "{name}");
        assert_eq!(host.take(), [], "{name}");
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
            Call::Read(first, piece - first),
            Call::Read(piece, 600 * 512 - piece + first),
        ];
        assert_eq!(host.take(), expected, "{name}");
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
        let host = Arc::new(Faulty::default());
        *host.flush_errno.lock().unwrap() = Some(libc::EIO);
        let spec = LunSpec { write_cache: WriteCache::Through, ..disk_spec() };
        let disk = Disk::new(Medium::new("test", Box::new(Host(Arc::clone(&host)))), &spec);
        let same = with_options(WRITE_SAME, 0, 0, 4);
        let lost = Response::check_condition(SenseCode::WRITE_ERROR, 0);
        assert_eq!(send(&disk, &mut io, &same, &[7; BLOCK]), lost, "{name}");
        *host.flush_errno.lock().unwrap() = None;
        let refused = Response::check_condition(SenseCode::WRITE_ERROR, BLOCK as u32);
        assert_eq!(send(&disk, &mut io, &same, &[7; BLOCK]), refused, "{name}");
    }
}
