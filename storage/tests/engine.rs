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
use storage::backend::{Backend, Geometry, Medium, Memory, RawFile};
use storage::buffer::DataBuf;
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
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
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let read = (0..BLOCKS + 2, 0u32..20, any::<bool>(), 0usize..12_000)
        .prop_map(|(lba, blocks, fua, room)| Op::Read { lba, blocks, fua, room });
    let write = (0..BLOCKS + 2, 0u32..20, any::<bool>(), any::<u8>())
        .prop_map(|(lba, blocks, fua, fill)| Op::Write { lba, blocks, fua, fill });
    prop_oneof![4 => read, 4 => write, 1 => Just(Op::Flush)]
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
