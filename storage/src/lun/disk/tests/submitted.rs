#![expect(unsafe_code, reason = "tasks borrow the buffers of a test")]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::backend::{FlushTurn, Memory};
use crate::buffer::DataBuf;
use crate::engine::Pool;
use crate::scsi::status::Status;
use crate::task::{Answer, ReplySink, Ticket};
use crate::testing::OwnedBuf;

struct NoSink;

impl ReplySink for NoSink {
    fn complete(&self, _: Answer) {
        panic!("the answer comes inline");
    }
}

/// Runs a command with these buffers.
fn run_with(disk: &Disk, cdb: &[u8], out: &mut OwnedBuf, into: &mut OwnedBuf) -> Response {
    run_on(&mut IoContext::inline(), disk, cdb, out, into)
}

fn run_on(
    io: &mut IoContext,
    disk: &Disk,
    cdb: &[u8],
    out: &mut OwnedBuf,
    into: &mut OwnedBuf,
) -> Response {
    // SAFETY: the answer is there before the buffers are used again.
    let (data_out, data_in): (DataBuf, DataBuf) = unsafe { (out.lend(), into.lend()) };
    let task = Task::new(Ticket::new(Arc::new(NoSink)), Cdb::new(cdb), data_out, data_in);
    match disk.submit(task, io) {
        Submitted::Done(answer) => answer.response,
        Submitted::Pending => panic!("the answer comes inline"),
    }
}

/// Runs a command that sends `out`.
fn send(disk: &Disk, cdb: &[u8], out: &[u8]) -> Response {
    run_with(disk, cdb, &mut OwnedBuf::holding(out), &mut OwnedBuf::zeroed(&[]))
}

/// What `len` bytes from a block on hold.
fn content(disk: &Disk, lba: u64, len: usize) -> Vec<u8> {
    let blocks = u32::try_from(len / 512).unwrap();
    let mut into = OwnedBuf::zeroed(&[len]);
    let read = run_with(disk, &cdb_16(0x88, 0, lba, blocks), &mut OwnedBuf::zeroed(&[]), &mut into);
    assert_eq!(read, Response::good(0));
    into.bytes()
}

fn memory_disk(blocks: u64, block_size: u32) -> Disk {
    let memory = Memory::new(Geometry { blocks, block_size });
    Disk::new(Medium::new("test", Box::new(memory)), &spec())
}

fn miscompare(lba: u64, resid: u32) -> Response {
    let code = SenseCode::MISCOMPARE_DURING_VERIFY_OPERATION;
    Response::check_condition(Sense { information: Some(lba), ..code.into() }, resid)
}

#[test]
fn what_was_written_is_read_back_with_exact_residuals() {
    let disk = memory_disk(8, 512);
    assert_eq!(send(&disk, &cdb_16(0x8a, 0, 7, 1), &[7; 700]), Response::good(188));
    let mut into = OwnedBuf::zeroed(&[100, 500, 600]);
    let cdb = [0x28, 0, 0, 0, 0, 6, 0, 0, 2, 0];
    let read = run_with(&disk, &cdb, &mut OwnedBuf::zeroed(&[]), &mut into);
    assert_eq!(read, Response::good(176));
    assert_eq!(into.bytes(), [vec![0; 512], vec![7; 512], vec![0; 176]].concat());
}

#[test]
fn a_block_is_written_all_over_a_range() {
    let disk = memory_disk(8, 512);
    let block: Vec<u8> = (0..=255).cycle().take(512).collect();
    // Four bytes more than it takes.
    let sent = [&block[..], &[0; 4]].concat();
    assert_eq!(send(&disk, &cdb_16(0x93, 0, 2, 5), &sent), Response::good(4));
    assert_eq!(content(&disk, 1, 512), [0; 512]);
    assert_eq!(content(&disk, 2, 5 * 512), block.repeat(5));
    assert_eq!(content(&disk, 7, 512), [0; 512]);
    // UNMAP asks for zeros only where zeros are sent.
    assert_eq!(send(&disk, &cdb_16(0x93, 0x08, 2, 1), &[9; 512]), Response::good(0));
    assert_eq!(content(&disk, 2, 512), [9; 512]);
    assert_eq!(send(&disk, &cdb_16(0x93, 0x08, 2, 1), &[0; 512]), Response::good(0));
    assert_eq!(content(&disk, 2, 512), [0; 512]);
    assert_eq!(send(&disk, &cdb_16(0x93, 0x01, 3, 2), &[5; 7]), Response::good(7));
    assert_eq!(content(&disk, 2, 5 * 512), [vec![0; 1536], block.repeat(2)].concat());
}

#[test]
fn unmapped_blocks_read_as_zeros() {
    let disk = memory_disk(8, 512);
    send(&disk, &cdb_16(0x8a, 0, 0, 8), &[1; 4096]);
    let mut list = vec![0; 40];
    (list[1], list[3], list[15], list[19], list[31], list[35]) = (38, 32, 1, 2, 6, 1);
    let unmap = send(&disk, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &[list, vec![0; 3]].concat());
    assert_eq!(unmap, Response::good(3));
    let expected: Vec<u8> = [1, 0, 0, 1, 1, 1, 0, 1].into_iter().flat_map(|n| [n; 512]).collect();
    assert_eq!(content(&disk, 0, 4096), expected);
}

#[test]
fn verify_finds_the_first_block_that_differs() {
    // More than is held at a time.
    let blocks = 1500;
    let disk = memory_disk(blocks, 512);
    let len = u32::try_from(blocks).unwrap();
    let mut bytes = vec![3; 512 * 1500];
    send(&disk, &cdb_16(0x8a, 0, 0, len), &bytes);
    assert_eq!(send(&disk, &cdb_16(0x8f, 0, 0, len), &[]), Response::good(0));
    assert_eq!(send(&disk, &cdb_16(0x8f, 2, 0, len), &bytes), Response::good(0));
    assert_eq!(send(&disk, &cdb_16(0x8f, 6, 0, len), &[3; 600]), Response::good(88));
    bytes[1400 * 512 + 511] = 4;
    let left = (1500 - 1024) * 512;
    assert_eq!(send(&disk, &cdb_16(0x8f, 2, 0, len), &bytes), miscompare(1400, 0));
    bytes[511] = 4;
    assert_eq!(send(&disk, &cdb_16(0x8f, 2, 0, len), &bytes), miscompare(0, left + 512 * 512));
    send(&disk, &cdb_16(0x8a, 0, 1499, 1), &[5; 512]);
    assert_eq!(send(&disk, &cdb_16(0x8f, 6, 0, len), &[3; 512]), miscompare(1499, 0));
}

#[test]
fn blocks_of_4096_bytes() {
    let disk = memory_disk(4, 4096);
    assert_eq!(send(&disk, &cdb_16(0x93, 0, 1, 3), &[6; 4096]), Response::good(0));
    assert_eq!(send(&disk, &cdb_16(0x8f, 6, 1, 3), &[6; 4096]), Response::good(0));
    assert_eq!(send(&disk, &cdb_16(0x8f, 6, 0, 3), &[6; 4096]), miscompare(0, 0));
    let out = Response::check_condition(Sense::lba_out_of_range(4), 0);
    assert_eq!(send(&disk, &cdb_16(0x8f, 0, 1, 4), &[]), out);
}

/// MODE SELECT of WCE = 0 and of SWP = 1, told to come again: by then nothing is left to change.
#[test]
fn a_change_that_could_not_flush_flushes_when_it_is_tried_again() {
    let caching = [&[0, 0, 0, 0, 0x08, 18][..], &[0; 18]].concat();
    let control = [&[0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0x08][..], &[0; 7]].concat();
    for list in [caching, control] {
        let disk = memory_disk(8, 512);
        let cdb = [0x15, 0x10, 0, 0, u8::try_from(list.len()).unwrap(), 0];
        let turn = FlushTurn::begin(Arc::clone(&disk.medium)).unwrap();
        // Without a thread nobody can wait.
        let mut io = IoContext::without_ring(Pool::new(0)).unwrap();
        let (mut out, mut into) = (OwnedBuf::holding(&list), OwnedBuf::zeroed(&[]));
        let busy = run_on(&mut io, &disk, &cdb, &mut out, &mut into);
        assert_eq!(busy, Response::Status { status: Status::BUSY, sense: None, resid: 0 });
        drop(turn);
        let again = disk.plan_with(&Cdb::new(&cdb), &list);
        assert!(matches!(again, Ok(Plan::Change { flush: true, .. })), "{again:?}");
        assert_eq!(send(&disk, &cdb, &list), Response::good(0));
    }
}

#[test]
fn a_stopped_disk_starts_again() {
    let disk = memory_disk(8, 512);
    assert_eq!(send(&disk, &[0x1b, 0, 0, 0, 0, 0], &[]), Response::good(0));
    let stopped = Response::check_condition(SenseCode::INITIALIZING_COMMAND_REQUIRED, 0);
    assert_eq!(send(&disk, &[0], &[]), stopped);
    assert_eq!(send(&disk, &[0x1b, 0, 0, 0, 1, 0], &[]), Response::good(0));
    assert_eq!(send(&disk, &[0], &[]), Response::good(0));
}

#[test]
fn a_refused_parameter_list_was_transferred_all_the_same() {
    let disk = memory_disk(8, 512);
    let refused = send(&disk, &[0x15, 0x10, 0, 0, 3, 0], &[0; 10]);
    let code = SenseCode::PARAMETER_LIST_LENGTH_ERROR;
    assert_eq!(refused, Response::check_condition(code, 7));
}

#[test]
fn data_is_cut_to_the_allocation_length() {
    let (mut out, mut into) = (OwnedBuf::zeroed(&[]), OwnedBuf::zeroed(&[200]));
    let disk = memory_disk(8, 512);
    let response = run_with(&disk, &[0x12, 0, 0, 0, 36, 0], &mut out, &mut into);
    assert_eq!(response, Response::good(164));
    assert_eq!(into.bytes()[36..], [0; 164]);
    assert_eq!(&into.bytes()[8..11], b"VMM");
}

#[test]
fn parameter_data_that_does_not_fit_overruns() {
    let (mut out, mut into) = (OwnedBuf::zeroed(&[]), OwnedBuf::zeroed(&[35]));
    let disk = memory_disk(8, 512);
    let response = run_with(&disk, &[0x12, 0, 0, 0, 36, 0], &mut out, &mut into);
    assert_eq!(response, Response::Failed(ServiceResponse::Overrun));
}

#[test]
fn a_refusal_moves_nothing() {
    let (mut out, mut into) = (OwnedBuf::holding(&[1; 64]), OwnedBuf::zeroed(&[64]));
    let response = run_with(&memory_disk(8, 512), &[0xff], &mut out, &mut into);
    let code = SenseCode::INVALID_COMMAND_OPERATION_CODE;
    assert_eq!(response, Response::check_condition(code, 128));
    assert_eq!(into.bytes(), [0; 64]);
}

/// CDBs of which some come as far as to be carried out.
fn cdb() -> impl Strategy<Value = [u8; 32]> {
    let opcode = prop::sample::select(opcode::OPCODES);
    let known = (opcode, any::<[u8; 31]>(), any::<[bool; 31]>()).prop_map(|(row, bytes, keep)| {
        let mut cdb = [0; 32];
        cdb[0] = row.opcode;
        for (index, (byte, keep)) in bytes.into_iter().zip(keep).enumerate() {
            cdb[index + 1] = if keep && index > 9 { byte } else { byte & 0x03 };
        }
        if let Some(action) = row.service_action {
            cdb[1] = action;
        }
        cdb
    });
    prop_oneof![4 => known, 1 => any::<[u8; 32]>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_command_panics_and_no_residual_is_longer_than_the_buffers(
        cdbs in prop::collection::vec(cdb(), 1..4),
        out in prop::collection::vec(any::<u8>(), 0..2000),
        zeros in any::<bool>(),
        in_len in 0usize..2000,
        block_size in prop::sample::select(vec![512u32, 4096]),
    ) {
        let disk = memory_disk(8, block_size);
        let out = if zeros { vec![0; out.len()] } else { out };
        for cdb in cdbs {
            let mut into = OwnedBuf::zeroed(&[in_len / 3, in_len - in_len / 3]);
            match run_with(&disk, &cdb, &mut OwnedBuf::holding(&out), &mut into) {
                Response::Status { status, sense, resid } => {
                    prop_assert!(resid as usize <= out.len() + in_len);
                    prop_assert_eq!(status == Status::CHECK_CONDITION, sense.is_some());
                }
                Response::Failed(why) => prop_assert_eq!(why, ServiceResponse::Overrun),
            }
        }
    }

    #[test]
    fn no_parameter_list_panics(
        opcode in prop::sample::select(vec![0x15u8, 0x42, 0x55]),
        list in prop::collection::vec(any::<u8>(), 0..300),
        sparse in any::<bool>(),
    ) {
        let list: Vec<u8> = list.into_iter().map(|byte| if sparse { byte & 0x18 } else { byte }).collect();
        let planned = thin_disk_of(1000).plan_with(&Cdb::new(&[opcode, 0x10]), &list);
        let again = matches!(planned, Ok(Plan::Parameters { .. }));
        prop_assert!(!again);
    }
}
