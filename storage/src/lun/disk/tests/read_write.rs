use super::*;

fn read(offset: u64, len: usize) -> Result<Plan, Sense> {
    Ok(Plan::Io { io: BlockIo::Read { offset, fua: false }, len })
}

fn write(offset: u64, fua: bool, len: usize) -> Result<Plan, Sense> {
    Ok(Plan::Io { io: BlockIo::Write { offset, fua }, len })
}

#[test]
fn reads_and_writes_of_every_length_become_transfers() {
    assert_eq!(plan(&[0x08, 0, 0, 2, 8, 0]), read(1024, 4096));
    assert_eq!(plan(&[0x28, 0, 0, 0, 0, 2, 0, 0, 8, 0]), read(1024, 4096));
    assert_eq!(plan(&[0xa8, 0, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0]), read(1024, 4096));
    assert_eq!(plan(&cdb_16(0x88, 0, 3, 1)), read(1536, 512));
    assert_eq!(plan(&[0x0a, 0, 0, 2, 8, 0]), write(1024, false, 4096));
    assert_eq!(plan(&[0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0]), write(0, true, 512));
    assert_eq!(plan(&[0xaa, 0x08, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), write(0, true, 512));
    assert_eq!(plan(&cdb_16(0x8a, 0x10, 999, 1)), write(999 * 512, false, 512));
}

#[test]
fn six_bytes_hold_21_bits_of_lba_and_a_length_of_0_for_256() {
    assert_eq!(
        plan_of(&disk_of(1 << 21), &[0x08, 0x1f, 0xff, 0xff, 1, 0]),
        read(0x1f_ffff << 9, 512)
    );
    assert_eq!(
        plan_of(&disk_of(1 << 21), &[0x08, 0xff, 0xff, 0xff, 1, 0]),
        read(0x1f_ffff << 9, 512)
    );
    assert_eq!(plan(&[0x08, 0, 0, 0, 0, 0]), read(0, 256 * 512));
    assert_eq!(plan(&[0x0a, 0, 0, 0, 0, 0]), write(0, false, 256 * 512));
    // Bits of the LBA are neither FUA nor WRPROTECT.
    assert_eq!(
        plan_of(&disk_of(1 << 21), &[0x0a, 0x08, 0, 0, 1, 0]),
        write(0x08_0000 << 9, false, 512)
    );
}

#[test]
fn blocks_past_the_end_are_refused_and_named() {
    let out = |lba| Err(Sense::lba_out_of_range(lba));
    assert_eq!(plan(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0]), out(1000));
    assert_eq!(plan(&[0x28, 0, 0, 0, 3, 0xe9, 0, 0, 0, 0]), out(1001));
    assert_eq!(plan(&[0x08, 0, 3, 0, 0, 0]), out(1000));
    for opcode in [0x88, 0x8a, 0x8f, 0x91] {
        assert_eq!(plan(&cdb_16(opcode, 0, u64::MAX, u32::MAX)), out(u64::MAX), "{opcode:#x}");
        assert_eq!(plan(&cdb_16(opcode, 0, 999, 2)), out(1000), "{opcode:#x}");
    }
    assert_eq!(plan(&[0x35, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0]), out(1000));
}

#[test]
fn no_blocks_need_no_transfer() {
    assert_eq!(plan(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(Plan::Good));
    assert_eq!(plan(&[0x2a, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0]), Ok(Plan::Good));
    for bytchk in [0, 2, 6] {
        assert_eq!(plan(&[0x2f, bytchk, 0, 0, 3, 0xe8, 0, 0, 0, 0]), Ok(Plan::Good));
    }
}

#[test]
fn the_maximum_transfer_length_is_kept() {
    for block_size in [512, 4096] {
        let disk = disk(1 << 40, block_size, Provisioning::default(), &spec());
        let max = MAX_TRANSFER / block_size;
        for opcode in [0x88, 0x8a] {
            let longest = plan_of(&disk, &cdb_16(opcode, 0, 0, max));
            assert!(matches!(longest, Ok(Plan::Io { len, .. }) if len == 16 << 20));
        }
        for opcode in [0x88, 0x8a, 0x8f] {
            let longer = plan_of(&disk, &cdb_16(opcode, 0, 0, max + 1));
            assert_eq!(longer, invalid_field(10, None));
        }
        let mut twelve = [0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0];
        assert_eq!(plan_of(&disk, &twelve), invalid_field(6, None));
        twelve[0] = 0xaf;
        assert_eq!(plan_of(&disk, &twelve), invalid_field(6, None));
        assert_eq!(data_of(&disk, &[0x12, 1, 0xb0, 0, 64, 0])[8..12], max.to_be_bytes());
    }
}

#[test]
fn short_buffers_overrun() {
    let lens = BufferLens { data_out: 511, data_in: 511 };
    for cdb in [
        [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x2f, 6, 0, 0, 0, 0, 0, 0, 8, 0],
        [0x41, 0, 0, 0, 0, 0, 0, 0, 8, 0],
    ] {
        let seen = disk_of(8).plan(&Cdb::new(&cdb), lens);
        assert_eq!(seen, Ok(Plan::Fail(ServiceResponse::Overrun)), "{cdb:02x?}");
    }
}

#[test]
fn protection_information_is_refused() {
    for opcode in [0x28, 0x2a, 0x2f, 0x41, 0x88, 0x8a, 0x8f, 0x93, 0xa8, 0xaa, 0xaf] {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (opcode, 0x20);
        assert_eq!(plan(&cdb), invalid_field(1, Some(7)), "{opcode:#x}");
    }
}

#[test]
fn verify_compares_what_bytchk_says() {
    let range = ByteRange { offset: 1024, len: 4096 };
    let verify = |compare, len| Ok(Plan::Io { io: BlockIo::Verify { range, compare }, len });
    let ten = |options| plan(&[0x2f, options, 0, 0, 0, 2, 0, 0, 8, 0]);
    assert_eq!(ten(0), verify(Compare::Nothing, 0));
    assert_eq!(ten(2), verify(Compare::DataOut, 4096));
    assert_eq!(ten(6), verify(Compare::RepeatedBlock, 512));
    assert_eq!(ten(4), invalid_field(1, Some(2)));
    let twelve = plan(&[0xaf, 0x12, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0]);
    assert_eq!(twelve, verify(Compare::DataOut, 4096));
    assert_eq!(plan(&cdb_16(0x8f, 6, 2, 8)), verify(Compare::RepeatedBlock, 512));
}

#[test]
fn synchronize_cache_of_both_lengths_flushes() {
    let flush = Ok(Plan::Io { io: BlockIo::Flush, len: 0 });
    assert_eq!(plan(&[0x35, 2, 0, 0, 0, 1, 0, 0, 1, 0]), flush);
    assert_eq!(plan(&cdb_16(0x91, 2, 1000, 0)), flush);
}

#[test]
fn without_a_write_cache_every_write_is_stable_at_once() {
    let spec = DiskSpec { write_cache: WriteCache::Through, ..spec() };
    let disk = disk(1000, BLOCK_SIZE, THIN, &spec);
    assert_eq!(plan_of(&disk, &[0x0a, 0, 0, 0, 1, 0]), write(0, true, 512));
    assert_eq!(plan_of(&disk, &cdb_16(0x8a, 0, 0, 1)), write(0, true, 512));
    assert_eq!(plan_of(&disk, &cdb_16(0x88, 0, 0, 1)), read(0, 512));
    let same = plan_of(&disk, &cdb_16(0x93, 0, 0, 1));
    assert!(matches!(same, Ok(Plan::Io { io: BlockIo::WriteSame { fua: true, .. }, .. })));
}

#[test]
fn a_read_only_disk_reads_and_says_so() {
    let disk = Disk { read_only: true, ..thin_disk_of(1000) };
    let protected = refused(SenseCode::WRITE_PROTECTED);
    for opcode in [0x0a, 0x2a, 0x41, 0x42, 0x8a, 0x93, 0xaa] {
        assert_eq!(plan_of(&disk, &[opcode]), protected, "{opcode:#x}");
    }
    for opcode in [0x08, 0x28, 0x2f, 0x35, 0x88, 0x8f, 0x91, 0xa8, 0xaf] {
        assert!(plan_of(&disk, &[opcode]).is_ok(), "{opcode:#x}");
    }
    assert_eq!(data_of(&disk, &[0x1a, 0, 0x3f, 0, 255, 0])[2], 0x90);
}

#[test]
fn nothing_is_written_after_a_flush_failed() {
    let disk = thin_disk_of(1000);
    disk.medium.note_flush(Err(std::io::ErrorKind::Other.into())).unwrap_err();
    let lost = refused(SenseCode::WRITE_ERROR);
    for cdb in [
        [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x35, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0x1b, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(plan_of(&disk, &cdb), lost, "{cdb:02x?}");
    }
    assert_eq!(disk.plan_with(&Cdb::new(&[0x42]), &[0; 8]), lost);
    assert_eq!(plan_of(&disk, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), read(0, 512));
}
