use super::super::facts::{Facts, Medium};
use super::*;
use crate::host::HostLimits;
use proptest::prelude::*;

/// A host that carries `blocks` of `block_size` bytes.
fn limits(blocks: u64, block_size: u32, granularity: u32) -> Limits {
    let host = HostLimits {
        max_bytes: blocks * u64::from(block_size),
        max_hw_bytes: blocks * u64::from(block_size),
        max_segments: u32::MAX,
        alignment: 4,
        queue_depth: 1,
    };
    let medium = Medium { blocks: u64::MAX, block_size, per_physical: granularity, protection: 0 };
    Limits::of(host, &Facts { medium: Some(medium), ..Facts::default() })
}

fn pieces(cdb: &[u8], len: u64, limits: &Limits) -> Vec<Piece> {
    match split(&Cdb::new(cdb), 0, len, limits) {
        Split::Pieces(pieces) => pieces.collect(),
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

fn cdbs(cdb: &[u8], len: u64, limits: &Limits) -> Vec<Vec<u8>> {
    pieces(cdb, len, limits).iter().map(|it| it.cdb.0[..it.cdb_len].to_vec()).collect()
}

#[test]
fn what_the_host_carries_goes_as_it_is() {
    let limits = limits(8, 512, 1);
    let read = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
    assert_eq!(split(&read, 0, 4096, &limits), Split::Whole);
    assert_eq!(split(&Cdb::new(&[0x2f]), 0, 0, &limits), Split::Whole);
}

/// Shortfall 4: QEMU sends it, and the host's EIO becomes a command that is retried for ever.
#[test]
fn a_long_read_or_write_becomes_several() {
    let limits = limits(8, 4096, 1);
    let pieces = pieces(&[0x28, 0, 0, 0, 0, 100, 0, 0, 20, 0], 20 * 4096, &limits);
    let ranges: Vec<_> = pieces.iter().map(|it| it.bytes.clone()).collect();
    assert_eq!(ranges, [0..32768, 32768..65536, 65536..81920]);
    let lbas: Vec<_> = pieces.iter().map(|it| (it.cdb.u32(2), it.cdb.u16(7))).collect();
    assert_eq!(lbas, [(100, 8), (108, 8), (116, 4)]);
}

/// Shortfall 8: QEMU reads GROUP NUMBER of the longer CDBs at wrong offsets, and clears CONTROL.
#[test]
fn every_layout_keeps_its_flags_group_and_control() {
    let limits = limits(8, 512, 1);
    for (cdb, second) in [
        (
            &[0x28, 0x18, 0, 0, 0, 1, 0x1f, 0, 9, 0xc4][..],
            &[0x28, 0x18, 0, 0, 0, 9, 0x1f, 0, 1, 0xc4][..],
        ),
        (&[0x2a, 0x08, 0, 0, 0, 1, 0x1e, 0, 9, 0xc0], &[0x2a, 0x08, 0, 0, 0, 9, 0x1e, 0, 1, 0xc0]),
        (
            &[0xa8, 0x10, 0, 0, 0, 1, 0, 0, 0, 9, 0x1d, 0xc1],
            &[0xa8, 0x10, 0, 0, 0, 9, 0, 0, 0, 1, 0x1d, 0xc1],
        ),
        (
            &[0x8a, 0x1c, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 0x15, 0xc2],
            &[0x8a, 0x1c, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0x15, 0xc2],
        ),
        (&[0x0a, 0, 0, 1, 9, 0xc3], &[0x0a, 0, 0, 9, 1, 0xc3]),
    ] {
        let cdbs = cdbs(cdb, 9 * 512, &limits);
        assert_eq!((cdbs.len(), &cdbs[1][..]), (2, second));
        assert_eq!(cdbs[0][..2], cdb[..2]);
    }
}

#[test]
fn a_length_of_0_is_256_blocks_in_six_bytes_and_none_in_others() {
    let limits = limits(100, 512, 1);
    let cdbs = cdbs(&[0x08, 0x1f, 0xff, 0x00, 0, 0], 256 * 512, &limits);
    assert_eq!(
        cdbs,
        [
            [0x08, 0x1f, 0xff, 0x00, 100, 0],
            [0x08, 0x1f, 0xff, 0x64, 100, 0],
            [0x08, 0x1f, 0xff, 0xc8, 56, 0],
        ]
    );
    let none = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(split(&none, 0, 0, &limits), Split::Whole);
}

#[test]
fn a_piece_past_the_end_of_its_lba_field_takes_a_longer_cdb() {
    let limits = limits(128, 512, 1);
    let six = cdbs(&[0x0a, 0x1f, 0xff, 0xff, 0, 7], 256 * 512, &limits);
    assert_eq!(six[1], [0x2a, 0, 0, 0x20, 0, 0x7f, 0, 0, 128, 7]);
    let ten = cdbs(&[0x28, 0x10, 0xff, 0xff, 0xff, 0xff, 3, 0, 129, 7], 129 * 512, &limits);
    assert_eq!(ten[1], [0x88, 0x10, 0, 0, 0, 1, 0, 0, 0, 0x7f, 0, 0, 0, 1, 3, 7]);
}

#[test]
fn pieces_end_where_the_alignment_is_best() {
    let limits = limits(20, 512, 8);
    let pieces = pieces(&[0x28, 0, 0, 0, 0, 3, 0, 0, 50, 0], 50 * 512, &limits);
    let ends: Vec<_> = pieces.iter().map(|it| it.cdb.u32(2) + u32::from(it.cdb.u16(7))).collect();
    assert_eq!(ends, [16, 32, 48, 53]);
}

#[test]
fn what_cannot_be_split_is_refused_at_its_transfer_length() {
    let limits = limits(1, 512, 1);
    for (device_type, cdb, byte) in [
        (0, &[0x2f, 2][..], 7),
        (0, &[0x28, 0x20, 0, 0, 0, 0, 0, 0, 2], 7),
        (0, &[0x2e], 7),
        (0, &[0x41], 7),
        (0, &[0x89], 13),
        (0, &[0x9c], 12),
        (0, &[0x8e], 10),
        (0, &[0xaf], 6),
        (0, &[0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 9], 28),
        (0, &[0x3b, 2], 6),
        (1, &[0x08, 1, 0, 0, 2], 2),
        (5, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 7),
        (7, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 7),
    ] {
        let refused = Split::Refused(Sense::invalid_field(byte, None));
        assert_eq!(split(&Cdb::new(cdb), device_type, 1024, &limits), refused, "{cdb:02x?}");
    }
}

#[test]
fn nothing_is_split_whose_blocks_nobody_knows() {
    let read = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    let refused = Split::Refused(Sense::invalid_field(7, None));
    let unknown = Limits { block_size: None, ..limits(1, 512, 1) };
    assert_eq!(split(&read, 0, 1024, &unknown), refused);
    let huge = Limits { block_size: Some(1024), ..limits(1, 512, 1) };
    assert_eq!(split(&read, 0, 2048, &huge), refused);
}

/// Shortfall 9: QEMU refuses protection information, and sends 16 bytes of longer CDBs.
#[test]
fn protection_and_long_cdbs_go_as_they_are_or_not_at_all() {
    let limits = limits(8, 512, 1);
    let protected = Cdb::new(&[0x2a, 0x20, 0, 0, 0, 0, 0, 0, 7, 0]);
    let long = Cdb::new(&[0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 0x0b, 0x20]);
    for cdb in [protected, long] {
        assert_eq!(split(&cdb, 0, 7 * 520, &limits), Split::Whole);
        assert!(matches!(split(&cdb, 0, 14 * 520, &limits), Split::Refused(_)));
    }
}

#[test]
fn zoned_writes_are_in_order() {
    let limits = limits(8, 512, 1);
    let write = Cdb::new(&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 20, 0, 0]);
    let Split::Pieces(pieces) = split(&write, 0x14, 20 * 512, &limits) else { panic!() };
    let lbas: Vec<_> = pieces.map(|it| it.cdb.u64(2)).collect();
    assert_eq!(lbas, [64, 72, 80]);
}

fn layout() -> impl Strategy<Value = Transfer> {
    let family = prop::sample::select(vec![
        (Family::Six, 0x1f_ffff, 256),
        (Family::Ten, u32::MAX.into(), 0xffff),
        (Family::Twelve, u32::MAX.into(), 100_000),
        (Family::Sixteen, u64::MAX, 100_000),
    ]);
    (family, any::<bool>(), any::<u64>(), any::<u32>(), any::<[u8; 3]>()).prop_map(
        |((family, most_lba, most_blocks), write, lba, blocks, [flags, group, control])| Transfer {
            family,
            write,
            flags: if family == Family::Six { 0 } else { flags & 0x1f },
            lba: if most_lba == u64::MAX { lba >> 1 } else { lba % (most_lba + 1) },
            blocks: blocks % most_blocks + 1,
            group: if family == Family::Six { 0 } else { group },
            control,
        },
    )
}

proptest! {
    #[test]
    fn a_cdb_survives_reading_and_writing(transfer in layout()) {
        let (cdb, len) = transfer.to_cdb();
        prop_assert_eq!(Transfer::of(&cdb), Some(transfer));
        prop_assert_eq!(len, transfer.family.len());
    }

    #[test]
    fn pieces_make_up_the_whole(
        transfer in layout(),
        most in 1u64..3000,
        granularity in 1u32..5000,
        block_size in prop::sample::select(vec![512u32, 520, 4096]),
    ) {
        let limits = limits(most, block_size, granularity);
        let len = u64::from(transfer.blocks) * u64::from(block_size);
        let (mut lba, mut at) = (transfer.lba, 0);
        match split(&transfer.to_cdb().0, 0, len, &limits) {
            Split::Whole => prop_assert!(len <= limits.hard),
            Split::Refused(_) => prop_assert!(false),
            Split::Pieces(pieces) => for piece in pieces {
                let part = Transfer::of(&piece.cdb).unwrap();
                let bytes = u64::from(part.blocks) * u64::from(block_size);
                prop_assert_eq!((part.lba, part.write, part.flags), (lba, transfer.write, transfer.flags));
                prop_assert_eq!((part.group, part.control), (transfer.group, transfer.control));
                prop_assert_eq!(piece.bytes, at..at + bytes);
                prop_assert!(bytes <= limits.hard);
                lba += u64::from(part.blocks);
                at += bytes;
            },
        }
        prop_assert!(at == len || at == 0);
    }

    #[test]
    fn no_cdb_panics(
        bytes in any::<[u8; 32]>(), device_type in 0u8..32, len in any::<u64>(),
        hard in any::<u64>(), block_size in prop::option::of(1u32..), granularity in any::<u32>(),
    ) {
        let limits = Limits { hard, block_size, granularity, ..limits(1, 512, 1) };
        if let Split::Pieces(pieces) = split(&Cdb::new(&bytes), device_type, len, &limits) {
            pieces.take(1000).for_each(drop);
        }
    }
}
