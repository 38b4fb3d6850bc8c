use super::*;
use crate::lun::disk::provisioning::{MAX_UNMAP, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME};

fn same(offset: u64, blocks: u64, may_unmap: bool, len: usize) -> Result<Plan, Sense> {
    let range = ByteRange { offset, len: blocks * 512 };
    Ok(Plan::Io { io: BlockIo::WriteSame { range, may_unmap, fua: false }, len })
}

/// An UNMAP parameter list with these descriptors.
fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let len = u16::try_from(descriptors.len() * 16).unwrap();
    let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap(disk: &Disk, descriptors: &[(u64, u32)]) -> Result<Plan, Sense> {
    disk.plan_with(&Cdb::new(&[0x42]), &list(descriptors))
}

#[test]
fn write_same_of_both_lengths() {
    let disk = thin_disk_of(1 << 20);
    let ten = |options| plan_of(&disk, &[0x41, options, 0, 0, 0, 2, 0, 0, 8, 0]);
    assert_eq!(ten(0), same(1024, 8, false, 512));
    assert_eq!(ten(0x08), same(1024, 8, true, 512));
    // What is NDOB in WRITE SAME(16) is obsolete in WRITE SAME(10).
    assert_eq!(ten(0x01), same(1024, 8, false, 512));
    let sixteen = |options| plan_of(&disk, &cdb_16(0x93, options, 2, 8));
    assert_eq!(sixteen(0), same(1024, 8, false, 512));
    assert_eq!(sixteen(0x01), same(1024, 8, false, 0));
    assert_eq!(sixteen(0x09), same(1024, 8, true, 0));
    for anchored in [ten(0x10), ten(0x18), sixteen(0x10), sixteen(0x18)] {
        assert_eq!(anchored, invalid_field(1, Some(4)));
    }
    // Each block would hold its own address, not what was sent.
    for with_physical_address in [ten(0x04), ten(0x06), sixteen(0x04), sixteen(0x06)] {
        assert_eq!(with_physical_address, invalid_field(1, Some(2)));
    }
    for with_address in [ten(0x02), sixteen(0x02)] {
        assert_eq!(with_address, invalid_field(1, Some(1)));
    }
    // Whoever asks which bits are looked at hears of these.
    let usage = |opcode| data_of(&disk, &[0xa3, 0x0c, 1, opcode, 0, 0, 0, 0, 1, 0, 0, 0])[5];
    assert_eq!((usage(0x41), usage(0x93)), (0xfe, 0xff));
}

#[test]
fn without_data_out_none_is_needed() {
    let lens = BufferLens::default();
    let seen = disk_of(1000).plan(&Cdb::new(&cdb_16(0x93, 1, 0, 1)), lens);
    assert_eq!(seen, same(0, 1, false, 0));
}

#[test]
fn write_same_keeps_its_limits() {
    let disk = thin_disk_of(1 << 40);
    let max = MAX_WRITE_SAME / BLOCK_SIZE;
    assert_eq!(plan_of(&disk, &cdb_16(0x93, 0, 1, max)), same(512, max.into(), false, 512));
    assert_eq!(plan_of(&disk, &cdb_16(0x93, 0, 1, max + 1)), invalid_field(10, None));
    assert_eq!(plan_of(&disk, &cdb_16(0x93, 0, 1, 0)), invalid_field(10, None));
    assert_eq!(plan_of(&disk, &[0x41, 0, 0, 0, 0, 1, 0, 0, 0, 0]), invalid_field(7, None));
    let out = Err(Sense::lba_out_of_range(1 << 40));
    assert_eq!(plan_of(&disk, &cdb_16(0x93, 0, (1 << 40) - 1, 2)), out);
    let large = super::disk(1 << 40, 4096, THIN, &spec());
    assert_eq!(plan_of(&large, &cdb_16(0x93, 0, 0, max / 8 + 1)), invalid_field(10, None));
}

#[test]
fn what_is_advertised_is_what_can_be_done() {
    let forbidden = DiskSpec { discard: false, ..spec() };
    let nonzero = Provisioning { unmapped_reads_zero: false, ..THIN };
    for (provisioning, spec, limits, page, capacity) in [
        (Provisioning::default(), spec(), None, [0, 0, 0, 0], 0),
        (THIN, forbidden, None, [0, 0, 0, 0], 0),
        (THIN, spec(), Some(8), [0, 0xe4, 2, 0], 0xc0),
        (nonzero, spec(), Some(8), [0, 0xe0, 2, 0], 0x80),
    ] {
        let disk = disk(1000, BLOCK_SIZE, provisioning, &spec);
        let b0 = data_of(&disk, &[0x12, 1, 0xb0, 0, 64, 0]);
        let unmap = [MAX_UNMAP / BLOCK_SIZE, MAX_UNMAP_DESCRIPTORS, limits.unwrap_or(0), 0]
            .map(|field| if limits.is_some() { field } else { 0 });
        assert_eq!(b0[20..36], unmap.map(u32::to_be_bytes).concat());
        assert_eq!(b0[4], 1);
        assert_eq!(b0[36..44], u64::from(MAX_WRITE_SAME / BLOCK_SIZE).to_be_bytes());
        assert_eq!(data_of(&disk, &[0x12, 1, 0xb2, 0, 64, 0])[4..], page);
        assert_eq!(data_of(&disk, &[0x9e, 0x10])[14], capacity);
        let supported = limits.is_some();
        let unmapping = plan_of(&disk, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(unmapping.is_ok(), supported);
        if !supported {
            assert_eq!(unmapping, refused(SenseCode::INVALID_COMMAND_OPERATION_CODE));
        }
        let same = plan_of(&disk, &cdb_16(0x93, 0x08, 0, 1));
        assert_eq!(same.is_ok(), supported);
        if !supported {
            assert_eq!(same, invalid_field(1, Some(3)));
        }
        assert!(plan_of(&disk, &cdb_16(0x93, 0, 0, 1)).is_ok());
    }
}

#[test]
fn unmap_reads_its_parameter_list() {
    let disk = thin_disk_of(1000);
    let unmap = |anchor, len| plan_of(&disk, &[0x42, anchor, 0, 0, 0, 0, 0, 0, len, 0]);
    assert_eq!(unmap(0, 24), Ok(Plan::Parameters { len: 24 }));
    assert_eq!(unmap(0, 0), Ok(Plan::Good));
    assert_eq!(unmap(1, 24), invalid_field(1, Some(0)));
    let lens = BufferLens { data_out: 23, data_in: 0 };
    let overrun = disk.plan(&Cdb::new(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]), lens);
    assert_eq!(overrun, Ok(Plan::Fail(ServiceResponse::Overrun)));
}

#[test]
fn unmap_unmaps_what_is_listed() {
    let disk = thin_disk_of(1000);
    let range = |lba: u64, blocks: u64| ByteRange { offset: lba * 512, len: blocks * 512 };
    let plan = |ranges: &[ByteRange]| {
        Ok(Plan::Io { io: BlockIo::Unmap { ranges: ranges.into(), fua: false }, len: 0 })
    };
    assert_eq!(unmap(&disk, &[(999, 1)]), plan(&[range(999, 1)]));
    let overlapping = unmap(&disk, &[(8, 8), (5, 0), (0, 16)]);
    assert_eq!(overlapping, plan(&[range(8, 8), range(0, 16)]));
    assert_eq!(unmap(&disk, &[]), Ok(Plan::Good));
    assert_eq!(unmap(&disk, &[(1000, 0)]), Ok(Plan::Good));
    let short = disk.plan_with(&Cdb::new(&[0x42]), &[0; 7]);
    assert_eq!(short, refused(SenseCode::PARAMETER_LIST_LENGTH_ERROR));
}

#[test]
fn unmap_unmaps_nothing_unless_all_of_the_list_is_right() {
    let disk = thin_disk_of(1 << 40);
    let max = MAX_UNMAP / BLOCK_SIZE;
    assert!(unmap(&disk, &[(0, max - 1), (7, 1)]).is_ok());
    let too_many = unmap(&disk, &[(0, max), (7, 1)]);
    assert_eq!(too_many, Err(Sense::invalid_parameter(32, None)));
    assert!(unmap(&disk, &[(0, 1); 256]).is_ok());
    assert_eq!(unmap(&disk, &[(0, 1); 257]), Err(Sense::invalid_parameter(2, None)));
    let out = unmap(&disk, &[(0, 1), ((1 << 40) - 1, 2)]);
    assert_eq!(out, Err(Sense::lba_out_of_range(1 << 40)));
    assert_eq!(unmap(&disk, &[(u64::MAX, u32::MAX)]), Err(Sense::lba_out_of_range(u64::MAX)));
}
