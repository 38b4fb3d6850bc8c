//! One trace of commands on every engine must have one outcome, and a failing host must show.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod common;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::faulty::{Fault, Faults, Faulty};
use common::host;
use common::{Initiator, SYNCHRONIZE_CACHE, transfer_16};
use proptest::prelude::*;
use storage::backend::{Backend, Geometry, Medium, Memory, OpenError, Options, RawFile};
use storage::buffer::DataBuf;
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
use storage::scsi::sense::{Sense, SenseCode};
use storage::scsi::status::Status;
use storage::task::{Response, SenseData};
use storage::testing::disk_spec;
use tempfile::NamedTempFile;

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

fn image() -> (NamedTempFile, Disk) {
    image_with(&Options::default()).unwrap()
}

fn image_with(options: &Options) -> Result<(NamedTempFile, Disk), OpenError> {
    let file = host::image(BLOCKS * BLOCK as u64);
    let backend = RawFile::open(file.path(), options)?;
    Ok((file, Disk::new(Medium::new("test", Box::new(backend)), &disk_spec())))
}

/// An image past the page cache, where the host lets us have one.
fn direct_image() -> Option<(NamedTempFile, Disk)> {
    image_with(&host::direct()).inspect_err(|why| eprintln!("skipped: the image {why}")).ok()
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
    run_aligned(disk, io, ops, 1)
}

fn run_aligned(
    disk: &Disk,
    io: &mut IoContext,
    ops: &[Op],
    align: usize,
) -> Vec<(Response, Vec<u8>)> {
    let mut initiator = Initiator::new(io);
    initiator.align = align;
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
            Op::Flush => initiator.task(&SYNCHRONIZE_CACHE, &[], 0),
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
        for ((name, mut io), align) in engines().into_iter().zip([1, BLOCK, BLOCK]) {
            let Some((_file, disk)) = direct_image() else { break };
            let seen = run_aligned(&disk, &mut io, &ops, align);
            prop_assert_eq!(&seen, &expected, "direct, {}, aligned to {}", name, align);
        }
        let Some((_file, disk)) = direct_image() else { return Ok(()) };
        let mut io = IoContext::new(32, Pool::new(3)).unwrap();
        prop_assert_eq!(&run(&disk, &mut io, &ops), &expected, "direct, not aligned");
    }
}

/// What has to be copied is not copied on the ring's thread.
#[test]
fn a_ring_takes_direct_transfers_only_of_aligned_memory() {
    if !io_uring_is_allowed() {
        eprintln!("skipped: no io_uring");
        return;
    }
    let Some((_file, disk)) = direct_image() else { return };
    for (align, on_ring) in [(4096, 1), (1, 0)] {
        let mut io = IoContext::new(32, Pool::new(1)).unwrap();
        let mut initiator = Initiator::new(&mut io);
        initiator.align = align;
        let (place, task) = initiator.task(&transfer_16(0x88, false, 0, 24), &[], 24 * BLOCK);
        initiator.took(disk.submit(task, &mut io));
        let in_flight = format!("Ring({on_ring} of");
        assert!(format!("{io:?}").contains(&in_flight), "aligned to {align}: {io:?}");
        initiator.drain(&mut io);
        assert_eq!(initiator.answered[&place], (Response::good(0), vec![0; 24 * BLOCK]));
    }
}

#[test]
fn a_direct_image_that_became_shorter_is_a_medium_error() {
    for (name, mut io) in engines() {
        for (align, blocks_left) in [(1, 2), (4096, 2), (1, 0), (4096, 0)] {
            let Some((file, disk)) = direct_image() else { return };
            let left = blocks_left * BLOCK + 100 * usize::from(blocks_left > 0);
            file.as_file().set_len(left as u64).unwrap();
            let read = Op::Read { lba: 0, blocks: 8, fua: false, room: 4096 };
            let seen = run_aligned(&disk, &mut io, &[read], align);
            assert_eq!(
                status(&seen[0]),
                (Status::CHECK_CONDITION, Some(SenseCode::UNRECOVERED_READ_ERROR)),
                "{name} aligned to {align}"
            );
            let Response::Status { resid, .. } = seen[0].0 else { panic!() };
            assert_eq!(resid as usize, 4096 - left, "{name} aligned to {align}");
        }
    }
}

#[test]
fn an_image_that_became_longer_is_as_it_was() {
    let (file, disk) = image();
    file.as_file().set_len(BLOCKS * BLOCK as u64 * 2).unwrap();
    let past = Op::Read { lba: BLOCKS, blocks: 1, fua: false, room: 512 };
    let last = Op::Read { lba: BLOCKS - 1, blocks: 1, fua: false, room: 512 };
    let seen = run(&disk, &mut IoContext::inline(), &[past, last]);
    let out_of_range = SenseCode::LBA_OUT_OF_RANGE;
    assert_eq!(status(&seen[0]), (Status::CHECK_CONDITION, Some(out_of_range)));
    assert_eq!(status(&seen[1]), (Status::GOOD, None));
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

/// FUA writes and SYNCHRONIZE CACHEs that all come at once, also where no thread can wait.
#[test]
fn flushes_at_the_same_time_all_end() {
    let pools = [Pool::new(3), Pool::new(1), Pool::new(0)];
    let rings = pools.map(|pool| ("default", IoContext::new(48, pool).unwrap()));
    for (name, mut io) in engines().into_iter().chain(rings) {
        let (_file, disk) = image();
        let mut initiator = Initiator::new(&mut io);
        for lba in 0..BLOCKS / 2 {
            let (_, task) =
                initiator.task(&transfer_16(0x8a, true, lba, 1), &[lba as u8; BLOCK], 0);
            initiator.took(disk.submit(task, &mut io));
            let (_, task) = initiator.task(&SYNCHRONIZE_CACHE, &[], 0);
            initiator.took(disk.submit(task, &mut io));
        }
        initiator.drain(&mut io);
        for (place, seen) in &initiator.answered {
            let (status, sense) = status(seen);
            assert!(matches!(status, Status::GOOD | Status::BUSY), "{name} {place} {sense:?}");
            let may_wait = !format!("{io:?}").contains("limit 0") || name == "inline";
            assert!(status == Status::GOOD || !may_wait, "{name} {place}");
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

fn faulty() -> (Disk, Arc<Faults>) {
    let geometry = Geometry { blocks: BLOCKS, block_size: BLOCK as u32 };
    let (backend, faults) = Faulty::new(geometry);
    (Disk::new(Medium::new("test", Box::new(backend)), &disk_spec()), faults)
}

const WRITE: Op = Op::Write { lba: 0, blocks: 1, fua: false, fill: 0 };
const WRITE_FUA: Op = Op::Write { lba: 0, blocks: 1, fua: true, fill: 0 };
const READ: Op = Op::Read { lba: 0, blocks: 1, fua: false, room: 512 };
const READ_FUA: Op = Op::Read { lba: 0, blocks: 1, fua: true, room: 512 };

fn status(seen: &(Response, Vec<u8>)) -> (Status, Option<SenseCode>) {
    match &seen.0 {
        Response::Status { status, sense, .. } => {
            (*status, sense.as_ref().and_then(SenseData::code))
        }
        Response::Failed(why) => panic!("{why:?}"),
    }
}

#[test]
fn after_a_failed_flush_nothing_is_written_any_more() {
    let write_error = (Status::CHECK_CONDITION, Some(SenseCode::WRITE_ERROR));
    for (name, mut io) in engines() {
        for sync in [Op::Flush, WRITE_FUA] {
            let (disk, faults) = faulty();
            *faults.flush.lock().unwrap() = Some(Fault::errno(libc::EIO));
            let failed = run(&disk, &mut io, std::slice::from_ref(&sync));
            assert_eq!(status(&failed[0]), write_error, "{name} {sync:?}");
            *faults.flush.lock().unwrap() = None;
            let after = run(&disk, &mut io, &[WRITE, Op::Flush, WRITE_FUA, READ]);
            for refused in &after[..3] {
                assert_eq!(status(refused), write_error, "{name} {sync:?}");
            }
            assert_eq!(status(&after[3]), (Status::GOOD, None));
        }
    }
}

/// One fault, or none, for each of some operations.
fn faults() -> impl Strategy<Value = Vec<(Op, Option<Fault>)>> {
    let errno = prop::sample::select(vec![libc::EIO, libc::ENOSPC, libc::ENOMEM, libc::EROFS]);
    let fault = (errno, 0usize..6000, 0u64..3).prop_map(|(errno, after, delay)| Fault {
        errno: Some(errno),
        after,
        delay: Duration::from_millis(delay),
    });
    let transfer = (any::<bool>(), 0..BLOCKS - 8, 1u32..8, any::<u8>()).prop_map(
        |(write, lba, blocks, fill)| match write {
            true => Op::Write { lba, blocks, fua: false, fill },
            false => Op::Read { lba, blocks, fua: false, room: blocks as usize * BLOCK },
        },
    );
    prop::collection::vec((transfer, prop::option::weighted(0.4, fault)), 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What the host did before an error counts, to the byte, and no error is taken for success.
    #[test]
    fn faults_are_told_to_the_byte(trace in faults()) {
        for (name, mut io) in engines() {
            let (disk, faults) = faulty();
            let mut model = vec![0; (BLOCKS as usize) * BLOCK];
            for (op, fault) in &trace {
                faults.next.lock().unwrap().extend(*fault);
                let (response, data) = run(&disk, &mut io, std::slice::from_ref(op)).remove(0);
                let Response::Status { status, resid, .. } = response else { panic!() };
                prop_assert_eq!(status == Status::GOOD, fault.is_none(), "{} {:?}", name, op);
                let (Op::Read { lba, blocks, .. } | Op::Write { lba, blocks, .. }) = *op else {
                    continue;
                };
                let (at, len) = (lba as usize * BLOCK, blocks as usize * BLOCK);
                let moved = fault.map_or(len, |fault| fault.after.min(len));
                if let Op::Write { fill, .. } = *op {
                    // The initiator sends a few bytes more than it names.
                    prop_assert_eq!(resid as usize, len - moved + 7);
                    model[at..at + moved].fill(fill);
                } else {
                    prop_assert_eq!(resid as usize, len - moved);
                    prop_assert_eq!(&data[..moved], &model[at..at + moved]);
                    prop_assert!(data[moved..].iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}

#[test]
fn an_ordinary_error_is_told_once_and_forgotten() {
    for ((name, mut io), write) in engines().into_iter().zip([WRITE, WRITE_FUA, WRITE_FUA]) {
        let (disk, faults) = faulty();
        *faults.always.lock().unwrap() = Some(Fault::errno(libc::ENOSPC));
        let failed = run(&disk, &mut io, std::slice::from_ref(&write));
        let full = SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT;
        assert_eq!(status(&failed[0]), (Status::CHECK_CONDITION, Some(full)), "{name}");
        *faults.always.lock().unwrap() = None;
        assert_eq!(status(&run(&disk, &mut io, &[write])[0]), (Status::GOOD, None), "{name}");
    }
}

/// A device below may have said so of the write-back, of which the host tells once.
#[test]
fn a_flush_that_sounds_as_if_nothing_was_tried_loses_writes_too() {
    let errnos =
        [libc::ENOMEM, libc::EAGAIN, libc::EBUSY, libc::ENOBUFS, libc::ECANCELED, libc::EINTR];
    let write_error = (Status::CHECK_CONDITION, Some(SenseCode::WRITE_ERROR));
    for errno in errnos {
        for (name, mut io) in engines() {
            let (disk, faults) = faulty();
            *faults.flush.lock().unwrap() = Some(Fault::errno(errno));
            let failed = run(&disk, &mut io, &[WRITE, Op::Flush]);
            assert_eq!(status(&failed[1]), write_error, "{name} {errno}");
            *faults.flush.lock().unwrap() = None;
            for again in run(&disk, &mut io, &[Op::Flush, WRITE, WRITE_FUA]) {
                assert_eq!(status(&again), write_error, "{name} {errno}");
            }
        }
    }
}

/// A device that cannot be flushed, and may be full: for the ring, which takes its descriptor.
#[derive(Debug)]
struct Device(File);

impl Device {
    fn disk(path: &str) -> Disk {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Disk::new(Medium::new(path, Box::new(Device(file))), &disk_spec())
    }
}

impl Backend for Device {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: BLOCKS, block_size: BLOCK as u32 }
    }

    fn read(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        data.advance(data.len());
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        data.advance(self.0.write_at(&[0; BLOCK], offset)?);
        Ok(())
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
        let disk = Device::disk("/dev/full");
        let seen = run(&disk, &mut io, &[WRITE, WRITE_FUA, READ, Op::Flush, WRITE, READ]);
        let check = |code| (Status::CHECK_CONDITION, Some(code));
        let full = check(SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT);
        let expected = [
            full,
            full,
            (Status::GOOD, None),
            check(SenseCode::WRITE_ERROR),
            check(SenseCode::WRITE_ERROR),
            (Status::GOOD, None),
        ];
        assert_eq!(seen.iter().map(status).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_write_that_is_not_flushed_is_told_by_every_engine_alike() {
    let write_error = (Status::CHECK_CONDITION, Some(SenseCode::WRITE_ERROR));
    for (name, mut io) in engines() {
        for flushing in [WRITE_FUA, Op::Flush] {
            let disk = Device::disk("/dev/zero");
            let seen = run(&disk, &mut io, &[WRITE, flushing, WRITE]);
            let expected = [(Status::GOOD, None), write_error, write_error];
            assert_eq!(seen.iter().map(status).collect::<Vec<_>>(), expected, "{name}");
        }
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
        let (disk, faults) = faulty();
        run(&disk, &mut io, &[READ]);
        assert_eq!(faults.flushes.load(Ordering::SeqCst), 0, "{name}");
        run(&disk, &mut io, &[READ_FUA]);
        assert_eq!(faults.flushes.load(Ordering::SeqCst), 1, "{name}");
    }
}
