use super::*;
use crate::backend::Memory;
use crate::testing::disk_spec as spec;

const BLOCK_SIZE: u32 = 512;

fn disk_of(blocks: u64) -> Disk {
    #[derive(Debug)]
    struct Sized(u64);
    impl crate::backend::Backend for Sized {
        fn geometry(&self) -> Geometry {
            Geometry { blocks: self.0, block_size: BLOCK_SIZE }
        }
        fn read(&self, _: u64, _: &mut crate::buffer::DataBuf) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
        fn write(&self, _: u64, _: &mut crate::buffer::DataBuf) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn raw_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
    }
    Disk::new(Medium::new("test", Box::new(Sized(blocks))), &spec())
}

/// Plans a command of a disk of 1000 blocks with plenty of buffer.
fn plan(cdb: &[u8]) -> Result<Plan, Sense> {
    let lens = BufferLens { data_out: 1 << 30, data_in: 1 << 30 };
    disk_of(1000).plan(&Cdb::new(cdb), lens)
}

fn data(cdb: &[u8]) -> Vec<u8> {
    match plan(cdb) {
        Ok(Plan::Data { bytes, .. }) => bytes,
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

fn invalid_field(byte: u16, bit: Option<u8>) -> Result<Plan, Sense> {
    Err(Sense::invalid_field(byte, bit))
}

#[test]
fn test_unit_ready_is_good() {
    assert_eq!(plan(&[0; 6]), Ok(Plan::Good));
}

#[test]
fn unknown_commands_are_refused() {
    for opcode in [0x01, 0x5e, 0x7f, 0x89, 0xc0, 0xff] {
        let refused = Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into());
        assert_eq!(plan(&[opcode]), refused, "{opcode:#x}");
    }
}

#[test]
fn reads_and_writes_become_transfers() {
    let read = |offset, len| Ok(Plan::Io { io: BlockIo::Read { offset, fua: false }, len });
    let write = |offset, fua, len| Ok(Plan::Io { io: BlockIo::Write { offset, fua }, len });
    assert_eq!(plan(&[0x28, 0, 0, 0, 0, 2, 0, 0, 8, 0]), read(1024, 4096));
    assert_eq!(plan(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0]), read(1536, 512));
    assert_eq!(plan(&[0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0]), write(0, true, 512));
    assert_eq!(
        plan(&[0x8a, 0x10, 0, 0, 0, 0, 0, 0, 3, 0xe7, 0, 0, 0, 1, 0, 0]),
        write(999 * 512, false, 512)
    );
}

#[test]
fn blocks_past_the_end_are_refused_and_named() {
    let out = |lba| Err(Sense::lba_out_of_range(lba));
    assert_eq!(plan(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0]), out(1000));
    assert_eq!(plan(&[0x28, 0, 0, 0, 3, 0xe9, 0, 0, 0, 0]), out(1001));
    let mut last = [0xff; 16];
    last[..2].copy_from_slice(&[0x88, 0]);
    last[14..].copy_from_slice(&[0, 0]);
    assert_eq!(plan(&last), out(u64::MAX));
    assert_eq!(plan(&[0x35, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0]), out(1000));
}

#[test]
fn no_blocks_need_no_transfer() {
    assert_eq!(plan(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(Plan::Good));
    assert_eq!(plan(&[0x2a, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0]), Ok(Plan::Good));
}

#[test]
fn the_maximum_transfer_length_is_kept() {
    let max = MAX_TRANSFER / BLOCK_SIZE;
    let read = |blocks: u32| {
        let mut cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        disk_of(1 << 40).plan(&Cdb::new(&cdb), BufferLens { data_out: 0, data_in: 1 << 30 })
    };
    assert!(matches!(read(max), Ok(Plan::Io { len, .. }) if len == 16 << 20));
    assert_eq!(read(max + 1), invalid_field(10, None));
    assert_eq!(data(&[0x12, 1, 0xb0, 0, 64, 0])[8..12], max.to_be_bytes());
}

#[test]
fn short_buffers_overrun() {
    let lens = BufferLens { data_out: 511, data_in: 511 };
    for opcode in [0x28, 0x2a] {
        let cdb = Cdb::new(&[opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(disk_of(8).plan(&cdb, lens), Ok(Plan::Fail(ServiceResponse::Overrun)));
    }
}

#[test]
fn protection_information_is_refused() {
    assert_eq!(plan(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), invalid_field(1, Some(7)));
}

#[test]
fn a_read_only_disk_reads_and_says_so() {
    let disk = Disk { read_only: true, ..disk_of(8) };
    let plan = |cdb: &[u8]| disk.plan(&Cdb::new(cdb), BufferLens { data_out: 512, data_in: 512 });
    let protected = Err(SenseCode::WRITE_PROTECTED.into());
    assert_eq!(plan(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]), protected);
    assert_eq!(plan(&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), protected);
    assert!(matches!(plan(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Ok(Plan::Io { .. })));
    let Ok(Plan::Data { bytes, .. }) = plan(&[0x1a, 0, 0x3f, 0, 255, 0]) else { panic!() };
    assert_eq!(bytes[2], 0x90);
}

#[test]
fn nothing_is_written_after_a_flush_failed() {
    let disk = disk_of(8);
    disk.medium.note_flush(Err(std::io::ErrorKind::Other.into())).unwrap_err();
    let plan = |cdb: &[u8]| disk.plan(&Cdb::new(cdb), BufferLens { data_out: 512, data_in: 512 });
    assert_eq!(plan(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Err(SenseCode::WRITE_ERROR.into()));
    assert_eq!(plan(&[0x35]), Err(SenseCode::WRITE_ERROR.into()));
    assert!(matches!(plan(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Ok(Plan::Io { .. })));
}

#[test]
fn capacity() {
    assert_eq!(data(&[0x25]), [0, 0, 3, 0xe7, 0, 0, 2, 0]);
    let long = data(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!(long[..12], [0, 0, 0, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0]);
    assert_eq!(long.len(), 32);
    let Ok(Plan::Data { bytes, .. }) =
        disk_of(1 << 33).plan(&Cdb::new(&[0x25]), BufferLens::default())
    else {
        panic!()
    };
    assert_eq!(bytes[..4], [0xff; 4]);
}

#[test]
fn the_pages_that_are_listed_are_there_and_no_others() {
    let listed = data(&[0x12, 1, 0, 0, 255, 0])[4..].to_vec();
    assert_eq!(listed, [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for page in 0..=255 {
        match plan(&[0x12, 1, page, 0, 255, 0]) {
            Ok(Plan::Data { bytes, .. }) => {
                assert!(listed.contains(&page));
                assert_eq!(bytes[1], page);
            }
            other => {
                assert!(!listed.contains(&page));
                assert_eq!(other, invalid_field(2, None));
            }
        }
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    assert_eq!(&data(&[0x12, 0, 0, 0, 96, 0])[8..36], b"VMM     VIRTUAL DISK    0.1 ");
    assert_eq!(&data(&[0x12, 1, 0x80, 0, 96, 0])[4..], b"0123456789");
    let wwn = [0x31, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    assert_eq!(data(&[0x12, 1, 0x83, 0, 96, 0])[8..], wwn);
}

#[test]
fn an_inquiry_page_without_evpd_is_refused() {
    assert_eq!(plan(&[0x12, 0, 0x80, 0, 96, 0]), invalid_field(2, None));
}

#[test]
fn mode_sense_selects_pages_and_values() {
    let all = data(&[0x1a, 0, 0x3f, 0, 255, 0]);
    assert_eq!(all[..4], [43, 0, 0x10, 8]);
    assert_eq!(all[4..12], [0, 0, 3, 0xe8, 0, 0, 2, 0]);
    assert_eq!((all[12], all[14], all[32]), (0x08, 0x04, 0x0a));
    let without_descriptor = data(&[0x1a, 0x08, 0x08, 0, 255, 0]);
    assert_eq!(without_descriptor[..7], [23, 0, 0x10, 0, 0x08, 18, 0x04]);
    let changeable = data(&[0x1a, 0x08, 0x48, 0, 255, 0]);
    assert_eq!(changeable[4..], [&[0x08, 18][..], &[0; 18]].concat());
    assert_eq!(
        plan(&[0x1a, 0, 0xff, 0, 255, 0]),
        Err(SenseCode::SAVING_PARAMETERS_NOT_SUPPORTED.into())
    );
    assert_eq!(plan(&[0x1a, 0, 0x01, 0, 255, 0]), invalid_field(2, Some(5)));
    assert_eq!(plan(&[0x1a, 0, 0x3f, 0x01, 255, 0]), invalid_field(3, None));
}

#[test]
fn request_sense_has_both_formats() {
    assert_eq!(data(&[3, 0, 0, 0, 252, 0])[0], 0x70);
    assert_eq!(data(&[3, 1, 0, 0, 252, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[expect(unsafe_code, reason = "tasks borrow the buffers of a test")]
mod submitted {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::DataBuf;
    use crate::task::{Answer, ReplySink, Ticket};
    use crate::testing::OwnedBuf;

    struct NoSink;

    impl ReplySink for NoSink {
        fn complete(&self, _: Answer) {
            panic!("the answer comes inline");
        }
    }

    /// Runs a command on a memory disk of 8 blocks.
    fn run(disk: &Disk, cdb: &[u8], out: &mut OwnedBuf, into: &mut OwnedBuf) -> Response {
        // SAFETY: the answer is there before the buffers are used again.
        let (data_out, data_in): (DataBuf, DataBuf) = unsafe { (out.lend(), into.lend()) };
        let task = Task::new(Ticket::new(Arc::new(NoSink)), Cdb::new(cdb), data_out, data_in);
        match disk.submit(task, &mut IoContext::inline()) {
            Submitted::Done(answer) => answer.response,
            Submitted::Pending => panic!("the answer comes inline"),
        }
    }

    fn memory_disk() -> Disk {
        let geometry = Geometry { blocks: 8, block_size: 512 };
        Disk::new(Medium::new("test", Box::new(Memory::new(geometry))), &spec())
    }

    #[test]
    fn what_was_written_is_read_back_with_exact_residuals() {
        let disk = memory_disk();
        let (mut out, mut none) = (OwnedBuf::holding(&[7; 700]), OwnedBuf::zeroed(&[]));
        let wrote = run(&disk, &[0x2a, 0, 0, 0, 0, 7, 0, 0, 1, 0], &mut out, &mut none);
        assert_eq!(wrote, Response::good(188));
        let mut into = OwnedBuf::zeroed(&[100, 500, 600]);
        let read =
            run(&disk, &[0x28, 0, 0, 0, 0, 6, 0, 0, 2, 0], &mut OwnedBuf::zeroed(&[]), &mut into);
        assert_eq!(read, Response::good(176));
        assert_eq!(into.bytes(), [vec![0; 512], vec![7; 512], vec![0; 176]].concat());
    }

    #[test]
    fn data_is_cut_to_the_allocation_length() {
        let (mut out, mut into) = (OwnedBuf::zeroed(&[]), OwnedBuf::zeroed(&[200]));
        let response = run(&memory_disk(), &[0x12, 0, 0, 0, 36, 0], &mut out, &mut into);
        assert_eq!(response, Response::good(164));
        assert_eq!(into.bytes()[36..], [0; 164]);
        assert_eq!(&into.bytes()[8..11], b"VMM");
    }

    #[test]
    fn parameter_data_that_does_not_fit_overruns() {
        let (mut out, mut into) = (OwnedBuf::zeroed(&[]), OwnedBuf::zeroed(&[35]));
        let response = run(&memory_disk(), &[0x12, 0, 0, 0, 36, 0], &mut out, &mut into);
        assert_eq!(response, Response::Failed(ServiceResponse::Overrun));
    }

    #[test]
    fn a_refusal_moves_nothing() {
        let (mut out, mut into) = (OwnedBuf::holding(&[1; 64]), OwnedBuf::zeroed(&[64]));
        let response = run(&memory_disk(), &[0xff], &mut out, &mut into);
        let code = SenseCode::INVALID_COMMAND_OPERATION_CODE;
        assert_eq!(response, Response::check_condition(code, 128));
        assert_eq!(into.bytes(), [0; 64]);
    }
}
