use super::*;

#[test]
fn capacity() {
    assert_eq!(data(&[0x25]), [0, 0, 3, 0xe7, 0, 0, 2, 0]);
    let long = data(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!(long[..13], [0, 0, 0, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0, 0]);
    assert_eq!(long.len(), 32);
}

#[test]
fn a_capacity_that_does_not_fit_says_so() {
    assert_eq!(data_of(&disk_of(1 << 32), &[0x25])[..4], [0xff; 4]);
    assert_eq!(data_of(&disk_of((1 << 32) + 1), &[0x25])[..4], [0xff; 4]);
    let long = data_of(&disk_of((1 << 32) + 1), &[0x9e, 0x10]);
    assert_eq!(long[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn block_sizes_are_reported() {
    let with = |block_size, physical_block_size| {
        let spec = DiskSpec { physical_block_size, ..spec() };
        let disk = disk(1000, block_size, Provisioning::default(), &spec);
        let (long, limits) = (data_of(&disk, &[0x9e, 0x10]), data_of(&disk, &[0x12, 1, 0xb0]));
        (long[8..16].to_vec(), limits[6..8].to_vec())
    };
    // What the backing has: four blocks in each physical one, of which the first is cut off.
    assert_eq!(with(512, None), (vec![0, 0, 2, 0, 0, 2, 0, 2], vec![0, 4]));
    assert_eq!(with(512, Some(512)), (vec![0, 0, 2, 0, 0, 0, 0, 0], vec![0, 0]));
    assert_eq!(with(512, Some(4096)), (vec![0, 0, 2, 0, 0, 3, 0, 0], vec![0, 8]));
    assert_eq!(with(4096, Some(4096)), (vec![0, 0, 16, 0, 0, 0, 0, 0], vec![0, 0]));
    assert_eq!(with(4096, Some(16384)), (vec![0, 0, 16, 0, 0, 2, 0, 0], vec![0, 4]));
}

#[test]
fn the_pages_that_are_listed_are_there_and_no_others() {
    let listed = data(&[0x12, 1, 0, 0, 255, 0])[4..].to_vec();
    assert_eq!(listed, [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
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
