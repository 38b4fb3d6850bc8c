use std::time::Duration;

use super::*;
use crate::buffer;
use crate::host::{Data, HostLimits, Request, ScsiHost};
use crate::lun::passthrough::facts::examine;
use crate::lun::spec::Naa;
use crate::scsi::wire::{put_u32, put_u64, u16_at, u32_at};
use crate::testing::recorded::{self, answer};
use crate::testing::{FakeDevice, FakeHost, Outcome};
use proptest::prelude::*;

/// A device behind a host, and an initiator that asks it as the logical unit does.
struct Bench {
    host: FakeHost,
    facts: Facts,
    limits: Limits,
    overlay: Overlay,
    write_protected: bool,
    promises: Promises,
}

const ALL_PROMISES: Promises = Promises {
    third_party_copy: true,
    report_target_port_groups: true,
    set_target_port_groups: true,
};

impl Bench {
    fn of(device: FakeDevice) -> Bench {
        let host = FakeHost::new(device);
        let facts = examine(&host).unwrap();
        let limits = Limits::of(host.limits().unwrap(), &facts);
        host.take_sent();
        let overlay = Overlay::default();
        Bench { host, facts, limits, overlay, write_protected: false, promises: ALL_PROMISES }
    }

    fn recorded(record: &str) -> Bench {
        Bench::of(FakeDevice::recorded(record))
    }

    /// With a host that carries as many bytes.
    fn carrying(mut device: FakeDevice, bytes: u64) -> Bench {
        device.limits.max_bytes = bytes;
        device.limits.max_hw_bytes = bytes;
        device.limits.max_segments = u32::MAX;
        Bench::of(device)
    }

    fn context(&self) -> Context<'_> {
        Context {
            facts: &self.facts,
            limits: &self.limits,
            overlay: &self.overlay,
            write_protected: self.write_protected,
            promises: self.promises,
        }
    }

    fn ask(&self, cdb: &[u8]) -> (Completion, Vec<u8>) {
        let fixup = Fixup::of(&Cdb::new(cdb), self.facts.device_type());
        let Some(fixup) = fixup else { return self.send(cdb, 4096) };
        let (mut completion, mut data) = self.send(&fixup.cdb.0[..cdb.len()], fixup.len);
        fixup.apply(&self.context(), &mut completion, &mut data);
        (completion, data)
    }

    fn send(&self, cdb: &[u8], len: usize) -> (Completion, Vec<u8>) {
        let mut data = vec![0; len];
        let completion = buffer::lend(&mut data, |buf| {
            let timeout = Duration::from_secs(1);
            self.host.execute(Request { cdb, data: Data::In(buf), timeout }).unwrap()
        });
        data.truncate(len - usize::try_from(completion.resid).unwrap_or(0));
        (completion, data)
    }

    fn vpd(&self, code: u8, allocation_length: u16) -> (Completion, Vec<u8>) {
        let [high, low] = allocation_length.to_be_bytes();
        self.ask(&[0x12, 1, code, high, low, 0])
    }

    /// A page, whole.
    fn page(&self, code: u8) -> Vec<u8> {
        let (completion, data) = self.vpd(code, 4096);
        assert_eq!(completion.status, Status::GOOD);
        assert_eq!(usize::from(u16_at(&data, 2)) + 4, data.len());
        data
    }

    fn inquiry(&self) -> Vec<u8> {
        self.ask(&[0x12, 0, 0, 0, 252, 0]).1
    }
}

/// A disk that has no Block Limits page, and says nothing of a limit.
fn without_block_limits() -> FakeDevice {
    let mut device = FakeDevice::recorded(recorded::DISK_512);
    device.vpd.remove(&0xb0);
    device.set_vpd(&[0, 0, 0, 6, 0x00, 0x80, 0x83, 0x86, 0xb1, 0xb2]);
    device
}

fn maximum(page: &[u8]) -> u32 {
    u32_at(page, 8)
}

/// A Block Limits page of a device with all there is, in blocks.
fn full_page() -> Vec<u8> {
    let mut page = crate::scsi::vpd::page(PageCode::BLOCK_LIMITS, &[0; 60]);
    page[4] = 1;
    page[5] = 255;
    put_u16(&mut page, 6, 64);
    let fields = [4096, 2048, 8192, 1 << 20, u32::MAX, 16, 0x8000_0004];
    for (index, value) in fields.into_iter().enumerate() {
        put_u32(&mut page, 8 + 4 * index, value);
    }
    put_u64(&mut page, 36, 1 << 30);
    for (index, value) in [512, 8, 24, 3000, 2000].into_iter().enumerate() {
        put_u32(&mut page, 44 + 4 * index, value);
    }
    page
}

fn with_page(page: &[u8]) -> FakeDevice {
    let mut device = FakeDevice::recorded(recorded::DISK_512);
    device.vpd.insert(0xb0, page.to_vec());
    device
}

/// Shortfall 1: QEMU overwrites the maximum even where the device's is lower, and leaves fields
/// that are now above it.
#[test]
fn block_limits_are_the_minimum_field_by_field() {
    let page = Bench::carrying(with_page(&full_page()), 100 * 512).page(0xb0);
    assert_eq!((page[4], page[5], u16_at(&page, 6)), (1, 50, 64));
    assert_eq!([8, 12, 16].map(|offset| u32_at(&page, offset)), [100, 64, 100]);
    assert_eq!(u32_at(&page, 20), 1 << 20, "UNMAP's blocks are not carried");
    assert_eq!(u32_at(&page, 24), (100 * 512 - 8) / 16);
    assert_eq!(page[28..44], full_page()[28..44], "WRITE SAME carries one block");
    assert_eq!([44, 48, 52, 56, 60].map(|offset| u32_at(&page, offset)), [96, 8, 24, 96, 96]);
}

#[test]
fn a_device_of_lower_limits_keeps_them() {
    let page = full_page();
    let bench = Bench::carrying(with_page(&page), 16384 * 512);
    assert_eq!(bench.page(0xb0), page);
}

#[test]
fn a_granularity_is_no_longer_than_a_transfer() {
    let page = Bench::carrying(with_page(&full_page()), 40 * 512).page(0xb0);
    assert_eq!((u16_at(&page, 6), maximum(&page), u32_at(&page, 12)), (40, 40, 40));
    let page = Bench::carrying(with_page(&full_page()), 20 * 512).page(0xb0);
    assert_eq!([44, 56, 60].map(|offset| u32_at(&page, offset)), [0, 0, 0]);
}

#[test]
fn fields_of_0_stay_but_the_maximum() {
    let page = Bench::of(with_page(&crate::scsi::vpd::page(PageCode::BLOCK_LIMITS, &[0; 60])));
    let page = page.page(0xb0);
    let mut expected = vec![0, 0xb0, 0, 60, 0, 0, 0, 0, 0, 0, 4, 0];
    expected.resize(64, 0);
    assert_eq!(page, expected);
}

#[test]
fn short_pages_of_old_standards_stay_short() {
    let lio = Bench::recorded(recorded::LIO).page(0xb0);
    let mut expected = answer(recorded::LIO, "vpdb0").unwrap();
    expected[8..16].copy_from_slice(&[0, 0, 4, 0, 0, 0, 4, 0]);
    assert_eq!(lio, expected);
    for (page, len) in [(&[0, 0xb0, 0, 12][..], 16), (&[0, 0xb0, 0, 2, 0, 0], 16)] {
        let page = Bench::of(with_page(&[page, &[0; 12]].concat())).page(0xb0);
        assert_eq!((page.len(), maximum(&page)), (len, 1024));
    }
}

#[test]
fn a_page_states_no_more_than_came() {
    let page = Bench::of(with_page(&full_page()[..30])).page(0xb0);
    assert_eq!((page.len(), maximum(&page)), (30, 1024));
}

/// Shortfall 5: QEMU does not look whether the answer is the page, and edits none that comes with
/// a recovered error.
#[test]
fn what_is_no_block_limits_page_is_replaced() {
    let inquiry = answer(recorded::DISK_512, "inquiry").unwrap();
    for answer in [&inquiry[..], &[], &[0, 0xb0], &[0, 0xb1, 0, 60]] {
        let page = Bench::of(with_page(answer)).page(0xb0);
        assert_eq!((page.len(), page[1], maximum(&page)), (64, 0xb0, 1024), "{answer:02x?}");
    }
}

/// Shortfall 5.
#[test]
fn a_recovered_error_comes_with_data_that_is_edited() {
    let bench = Bench::recorded(recorded::DISK_512);
    for key in [0x01, 0x81, 0xe1] {
        let sense = [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x17, 1, 0, 0, 0, 0];
        bench.host.next(Outcome::alter(move |completion| {
            completion.status = Status::CHECK_CONDITION;
            completion.sense = sense.to_vec();
        }));
        let (completion, page) = bench.vpd(0xb0, 64);
        assert_eq!(
            (completion.status, &completion.sense[..]),
            (Status::CHECK_CONDITION, &sense[..])
        );
        assert_eq!(maximum(&page), 1024);
    }
}

/// Shortfall 10: a sense key has other bits beside it.
#[test]
fn a_refusal_is_told_apart_from_other_ends() {
    let bench = Bench::of(without_block_limits());
    let fixed = |key| vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0];
    let ends = [
        (fixed(0x05), true),
        (fixed(0xe5), true),
        (vec![0x72, 0x05, 0x24, 0, 0, 0, 0, 0], true),
        (vec![0x71, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0], false),
        (fixed(0x06), false),
        (fixed(0x02), false),
        (vec![], false),
    ];
    for (sense, replaced) in ends {
        let status = Status::CHECK_CONDITION;
        bench.host.next(Outcome::End(Completion { status, sense, ..Completion::default() }));
        let (completion, data) = bench.vpd(0xb0, 64);
        assert_eq!((completion.status == Status::GOOD, data.len() == 64), (replaced, replaced));
        assert_eq!(completion.resid, if replaced { 0 } else { 64 });
    }
    for outcome in [Outcome::status(Status::BUSY), Outcome::host(HostStatus::NO_CONNECT)] {
        bench.host.next(outcome);
        assert_eq!(bench.vpd(0xb0, 64).1, []);
    }
}

/// The failure that all this is for: a disk says nothing of a limit, and the host has one.
#[test]
fn a_disk_without_block_limits_gets_them() {
    let mut device = without_block_limits();
    device.limits.max_bytes = 256 << 10;
    let bench = Bench::of(device);
    assert_eq!(bench.page(0x00)[4..], [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    let page = bench.page(0xb0);
    assert_eq!((page.len(), maximum(&page)), (64, 512));
    assert!(page.iter().enumerate().all(|(at, byte)| at < 4 || *byte == 0 || at == 10));
}

/// Shortfall 2: a QEMU guest that asks for the limits before the capacity gets eight times too many.
#[test]
fn limits_are_in_blocks_of_the_device_at_the_first_command() {
    let mut device = FakeDevice::recorded(recorded::DISK_4096);
    device.limits.max_bytes = 256 << 10;
    let bench = Bench::of(device);
    assert_eq!(maximum(&bench.page(0xb0)), 64);
    assert_eq!(bench.host.take_cdbs().len(), 1);
}

/// Shortfall 3: QEMU injects the page, but a guest of an old device never asks for it.
#[test]
fn the_version_is_raised_so_that_pages_are_asked_for() {
    for (version, format, raised) in [
        (0x00, 0x00, [4, 0x02]),
        (0x02, 0x12, [4, 0x12]),
        (0x03, 0x02, [4, 0x02]),
        (0x83, 0x01, [4, 0x02]),
        (0x04, 0x02, [4, 0x02]),
        (0x05, 0x02, [5, 0x02]),
        (0x07, 0x22, [7, 0x22]),
    ] {
        let mut device = FakeDevice::recorded(recorded::DISK_SPC);
        (device.inquiry[2], device.inquiry[3]) = (version, format);
        let mut expected = device.inquiry.clone();
        expected[2..4].copy_from_slice(&raised);
        assert_eq!(Bench::of(device).inquiry(), expected, "{version:02x}");
    }
}

#[test]
fn only_devices_with_pages_of_ours_are_raised() {
    for record in [recorded::TAPE, recorded::CD] {
        let mut device = FakeDevice::recorded(record);
        device.inquiry[2] = 3;
        let mut bench = Bench::of(device);
        assert_eq!(bench.inquiry()[2], 3);
        assert_eq!(bench.page(0x00), answer(record, "vpd00").unwrap());
        assert_eq!(bench.vpd(0xb0, 64).0.status, Status::CHECK_CONDITION);
        bench.overlay.serial = Some("0001".into());
        assert_eq!(bench.inquiry()[2], 4);
    }
}

#[test]
fn a_device_that_refuses_the_page_list_gets_one() {
    let mut device = FakeDevice::default();
    device.inquiry[2] = 2;
    device.vpd.clear();
    assert_eq!(Bench::of(device.clone()).page(0x00), [0, 0, 0, 2, 0x00, 0xb0]);
    device.vpd.insert(0x00, device.inquiry.clone());
    assert_eq!(Bench::of(device).page(0x00), [0, 0, 0, 2, 0x00, 0xb0]);
    assert_eq!(Bench::recorded(recorded::LIO_NAMELESS).page(0x00), [0, 0, 0, 2, 0x00, 0xb0]);
    let mut tape = FakeDevice::recorded(recorded::TAPE);
    tape.vpd.clear();
    assert_eq!(Bench::of(tape).vpd(0x00, 252).0.status, Status::CHECK_CONDITION);
}

#[test]
fn a_list_that_has_the_page_is_as_it_was() {
    for record in [recorded::DISK_512, recorded::ZONED, recorded::LIO] {
        assert_eq!(Bench::recorded(record).page(0x00), answer(record, "vpd00").unwrap());
    }
}

#[test]
fn zoned_devices_get_block_limits_too() {
    let mut device = FakeDevice::recorded(recorded::ZONED);
    device.vpd.remove(&0xb0);
    let page = Bench::of(device).page(0xb0);
    assert_eq!((page[0], page[1], maximum(&page)), (0x14, 0xb0, 1024));
}

/// Shortfall 7: QEMU edits bytes that the guest's buffer may not have.
#[test]
fn every_allocation_length_cuts_the_same_response() {
    let mut bench = Bench::of(without_block_limits());
    bench.write_protected = true;
    let cdbs = |len: u16| -> [Vec<u8>; 5] {
        let [high, low] = len.to_be_bytes();
        [
            vec![0x12, 1, 0x00, high, low, 0],
            vec![0x12, 1, 0xb0, high, low, 0],
            vec![0x12, 0, 0, high, low, 0],
            vec![0x5a, 0, 0x0a, 0, 0, 0, 0, high, low, 0],
            vec![0x1a, 0, 0x0a, 0, low, 0],
        ]
    };
    let whole = cdbs(255).map(|cdb| bench.ask(&cdb).1);
    for len in (0..=255).chain([256, 259, 261, 4096, 65535]) {
        for (cdb, whole) in cdbs(len).iter().zip(&whole).take(if len < 256 { 5 } else { 4 }) {
            let (completion, data) = bench.ask(cdb);
            let len = usize::from(len);
            assert_eq!(data, whole[..len.min(whole.len())], "{cdb:02x?}");
            assert_eq!(usize::try_from(completion.resid).unwrap(), len - data.len());
        }
    }
}

#[test]
fn the_whole_page_is_asked_for_in_a_length_that_old_devices_take() {
    let bench = Bench::recorded(recorded::DISK_512);
    bench.vpd(0x00, 4);
    bench.vpd(0xb0, 65535);
    bench.ask(&[0x12, 0, 0, 0, 5, 0]);
    let sent: Vec<_> = bench.host.take_sent().into_iter().map(|it| (it.cdb, it.data_in)).collect();
    assert_eq!(
        sent,
        [
            (vec![0x12, 1, 0x00, 0, 252, 0], 252),
            (vec![0x12, 1, 0xb0, 1, 4, 0], 260),
            (vec![0x12, 0, 0, 0, 5, 0], 5),
        ]
    );
}

/// Shortfall 14: QEMU shows write protection only where the guest asks for block descriptors.
#[test]
fn a_read_only_medium_is_write_protected_with_and_without_block_descriptors() {
    for record in [recorded::DISK_512, recorded::ZONED, recorded::TAPE] {
        let mut bench = Bench::recorded(record);
        for dbd in [0, 0x08] {
            let six = [0x1a, dbd, 0x3f, 0, 255, 0];
            let ten = [0x5a, dbd, 0x3f, 0, 0, 0, 0, 0, 255, 0];
            bench.write_protected = false;
            let (mut short, mut long) = (bench.ask(&six).1, bench.ask(&ten).1);
            assert_eq!((short[2] & 0x80, long[3] & 0x80), (0, 0));
            bench.write_protected = true;
            short[2] |= 0x80;
            long[3] |= 0x80;
            assert_eq!((bench.ask(&six).1, bench.ask(&ten).1), (short, long));
        }
    }
    let mut cd = Bench::recorded(recorded::CD);
    cd.write_protected = true;
    assert_eq!(cd.ask(&[0x1a, 0, 0x3f, 0, 255, 0]).1[2], 0);
}

/// Shortfall 15: standard INQUIRY data promises what is refused.
#[test]
fn promises_that_are_not_kept_are_taken_back() {
    let mut bench = Bench::recorded(recorded::LIO);
    assert_eq!(bench.inquiry()[5], 0xb8);
    for (third_party_copy, report, set, byte) in [
        (false, true, true, 0xb0),
        (true, true, false, 0x98),
        (false, true, false, 0x90),
        (false, false, true, 0x80),
        (true, false, false, 0x88),
    ] {
        bench.promises = Promises {
            third_party_copy,
            report_target_port_groups: report,
            set_target_port_groups: set,
        };
        assert_eq!(bench.inquiry()[5], byte);
    }
}

#[test]
fn names_of_the_user_take_the_place_of_the_devices() {
    let mut bench = Bench::recorded(recorded::LIO);
    bench.overlay.serial = Some("SERIAL-1".into());
    bench.overlay.wwn = Some(Naa::parse("naa.600140512345678901234567890abcde").unwrap());
    assert_eq!(bench.page(0x80), b"\x00\x80\x00\x08SERIAL-1");
    let page = bench.page(0x83);
    assert_eq!(page[4..24], {
        let naa = [
            0x60, 1, 0x40, 0x51, 0x23, 0x45, 0x67, 0x89, 1, 0x23, 0x45, 0x67, 0x89, 0x0a, 0xbc,
            0xde,
        ];
        [&[1, 3, 0, 16][..], &naa].concat()
    });
    let device = answer(recorded::LIO, "vpd83").unwrap();
    let ports = device.windows(4).position(|it| it == [0x61, 0x94, 0, 4]).unwrap();
    let alone = |page: &[u8]| crate::scsi::designator::in_page(page);
    let kept: Vec<_> = alone(&device)
        .into_iter()
        .filter(|(association, _)| {
            *association != crate::scsi::designator::Association::LogicalUnit
        })
        .collect();
    assert_eq!(alone(&page)[1..], kept);
    assert!(page.windows(8).any(|it| it == &device[ports..ports + 8]));
}

#[test]
fn names_are_listed_and_given_to_a_device_that_has_none() {
    let mut bench = Bench::recorded(recorded::LIO_NAMELESS);
    bench.overlay.serial = Some("S".into());
    bench.overlay.wwn = Some(Naa::locally_assigned(1));
    assert_eq!(bench.page(0x00)[4..], [0x00, 0x80, 0x83, 0xb0]);
    assert_eq!(bench.page(0x80), [0, 0x80, 0, 1, b'S']);
    assert_eq!(bench.page(0x83), [0, 0x83, 0, 12, 1, 3, 0, 8, 0x30, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bench.vpd(0x83, 6).1.len(), 6);
}

#[test]
fn other_commands_are_left_alone() {
    for cdb in [
        &[0x25][..],
        &[0x9e, 0x10],
        &[0x12, 1, 0xb1, 0, 64],
        &[0x12, 0, 0xb0, 0, 64],
        &[0x12, 2, 0x28, 0, 64],
        &[0x28],
    ] {
        assert_eq!(Fixup::of(&Cdb::new(cdb), 0), None, "{cdb:02x?}");
    }
    for device_type in [0x01, 0x05, 0x08, 0x0d, 0x0e] {
        assert_eq!(Fixup::of(&Cdb::new(&[0x12, 1, 0xb0, 0, 64]), device_type), None);
    }
}

/// Each response of a real device, before and after.
#[test]
fn real_devices_are_edited_only_where_they_must_be() {
    for record in recorded::ALL {
        let bench = Bench::recorded(record);
        assert_eq!(
            Some(bench.inquiry()[5..].to_vec()),
            answer(record, "inquiry").map(|it| it[5..].to_vec())
        );
        for code in ["80", "83"] {
            let Some(page) = answer(record, &format!("vpd{code}")) else { continue };
            let code = u8::from_str_radix(code, 16).unwrap();
            assert_eq!(bench.page(code), page);
        }
    }
}

fn codes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::btree_set(any::<u8>(), 0..256).prop_map(|set| set.into_iter().collect())
}

fn host_limits() -> impl Strategy<Value = HostLimits> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(bytes, hw, max_segments)| HostLimits {
        max_bytes: bytes.into(),
        max_hw_bytes: hw.into(),
        max_segments,
        alignment: 4,
        queue_depth: 1,
    })
}

proptest! {
    #[test]
    fn a_page_list_stays_sorted_and_whole(codes in codes(), wwn in any::<bool>()) {
        let mut bench = Bench::recorded(recorded::DISK_512);
        bench.overlay.wwn = wwn.then(|| Naa::locally_assigned(7));
        let mut page = page::new(0, PageCode::SUPPORTED_PAGES, &codes);
        page_list::edit(&mut page, &bench.context());
        let list = &page[4..];
        prop_assert!(list.is_sorted() && list.contains(&0xb0) && list.contains(&0x00));
        prop_assert!(codes.iter().all(|code| list.contains(code)));
        prop_assert_eq!(list.len(), usize::from(u16_at(&page, 2)));
        let once = page.clone();
        page_list::edit(&mut page, &bench.context());
        prop_assert_eq!(page, once);
    }

    #[test]
    fn block_limits_never_exceed_the_host(
        answer in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            prop::collection::vec(any::<u8>(), 60).prop_map(|body| page::new(0, PageCode::BLOCK_LIMITS, &body)),
        ],
        host in host_limits(),
        block_size in prop::option::of(1u32..1 << 20),
    ) {
        let mut bench = Bench::recorded(recorded::DISK_512);
        bench.facts.medium = block_size.map(|block_size| crate::lun::passthrough::facts::Medium {
            blocks: 1, block_size, per_physical: 1, protection: 0,
        });
        bench.limits = Limits::of(host, &bench.facts);
        let blocks = bench.limits.blocks();
        let mut page = answer;
        block_limits::edit(&mut page, &bench.context());
        prop_assert_eq!(page.len() - 4, usize::from(u16_at(&page, 2)));
        prop_assert!(page.len() >= 16 && page[1] == 0xb0);
        prop_assert!((1..=blocks).contains(&maximum(&page)));
        for offset in [12, 16, 44, 56, 60] {
            prop_assert!(u32_at(&page, offset) <= blocks, "{}", offset);
        }
        prop_assert!(u32::from(u16_at(&page, 6)) <= maximum(&page));
        prop_assert!(u32::from(page[5]) * 2 <= blocks);
        let granularity = u32_at(&page, 52);
        prop_assert!(granularity == 0 || u32_at(&page, 44) <= granularity || blocks >= granularity);
        let once = page.clone();
        block_limits::edit(&mut page, &bench.context());
        prop_assert_eq!(page, once);
    }

    #[test]
    fn no_device_and_no_allocation_length_panics(
        cdb in any::<[u8; 10]>(),
        opcode in prop::sample::select(vec![0x12u8, 0x1a, 0x5a]),
        evpd in 0u8..2,
        code in prop::sample::select(vec![0x00u8, 0x80, 0x83, 0xb0, 0x3f]),
        device_type in 0u8..0x20,
        status in prop::sample::select(vec![0u8, 2, 8]),
        sense in prop::collection::vec(any::<u8>(), 0..20),
        data in prop::collection::vec(any::<u8>(), 0..600),
        identification in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
        named in any::<bool>(),
    ) {
        let mut cdb = Cdb::new(&cdb);
        cdb.0[..3].copy_from_slice(&[opcode, evpd, code]);
        let Some(fixup) = Fixup::of(&cdb, device_type) else { return Ok(()) };
        let mut bench = Bench::recorded(recorded::DISK_512);
        bench.facts.inquiry[0] = device_type;
        bench.facts.identification = identification;
        bench.write_protected = true;
        if named {
            bench.overlay = Overlay { serial: Some("S".into()), wwn: Some(Naa::locally_assigned(1)) };
        }
        let mut data = data;
        data.truncate(fixup.len);
        let mut completion = Completion { status: Status(status), sense, ..Completion::default() };
        fixup.apply(&bench.context(), &mut completion, &mut data);
        prop_assert!(data.len() <= fixup.allocation_length);
        prop_assert_eq!(completion.resid as usize + data.len(), fixup.allocation_length);
    }
}
