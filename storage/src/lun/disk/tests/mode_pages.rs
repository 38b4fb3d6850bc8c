use super::*;

const CACHING: u8 = 12;
const CONTROL: u8 = 32;

/// MODE SENSE(6) of all pages, with this PAGE CONTROL.
fn sense(disk: &Disk, control: u8) -> Vec<u8> {
    data_of(disk, &[0x1a, 0, control << 6 | 0x3f, 0, 255, 0])
}

/// MODE SELECT(6) of what MODE SENSE(6) returns with some bytes set to other values.
fn select(disk: &Disk, changes: &[(u8, u8)]) -> Result<Plan, Sense> {
    let mut list = sense(disk, 0);
    for &(at, value) in changes {
        list[usize::from(at)] = value;
    }
    let plan = disk.plan_with(&Cdb::new(&[0x15, 0x10]), &list);
    if let Ok(Plan::Change { change, .. }) = plan {
        disk.state.apply(change);
    }
    plan
}

fn flushes(plan: &Result<Plan, Sense>) -> bool {
    match plan {
        Ok(Plan::Change { flush, .. }) => *flush,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mode_sense_selects_pages_and_values() {
    let all = data(&[0x1a, 0, 0x3f, 0, 255, 0]);
    assert_eq!(all[..4], [43, 0, 0x10, 8]);
    assert_eq!(all[4..12], [0, 0, 3, 0xe8, 0, 0, 2, 0]);
    assert_eq!((all[12], all[14], all[32]), (0x08, 0x04, 0x0a));
    let without_descriptor = data(&[0x1a, 0x08, 0x08, 0, 255, 0]);
    assert_eq!(without_descriptor[..7], [23, 0, 0x10, 0, 0x08, 18, 0x04]);
    let changeable = data(&[0x1a, 0x08, 0x7f, 0, 255, 0]);
    let caching = [&[0x08, 18, 0x04][..], &[0; 17]].concat();
    assert_eq!(changeable[4..24], caching);
    assert_eq!(changeable[24..], [0x0a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        plan(&[0x1a, 0, 0xff, 0, 255, 0]),
        refused(SenseCode::SAVING_PARAMETERS_NOT_SUPPORTED)
    );
    assert_eq!(plan(&[0x1a, 0, 0x01, 0, 255, 0]), invalid_field(2, Some(5)));
    assert_eq!(plan(&[0x1a, 0, 0x3f, 0x01, 255, 0]), invalid_field(3, None));
}

#[test]
fn mode_sense_10_has_the_same_pages_behind_its_own_header() {
    let (six, ten) = (data(&[0x1a, 0, 0x3f]), data(&[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 255, 0]));
    assert_eq!(ten[..8], [0, 46, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(ten[8..], six[4..]);
    let large = disk_of(1 << 33);
    let long = data_of(&large, &[0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(long[..8], [0, 42, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(long[8..24], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    let short = data_of(&large, &[0x5a, 0, 0x08, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(short[4..16], [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    // MODE SENSE(6) has no LLBAA.
    assert_eq!(data_of(&large, &[0x1a, 0x10, 0x08])[3], 8);
}

#[test]
fn the_write_cache_can_be_turned_off_and_on_and_a_reset_puts_it_back() {
    let disk = disk_of(1000);
    let write = || plan_of(&disk, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    let fua = |fua| Ok(Plan::Io { io: BlockIo::Write { offset: 0, fua }, len: 512 });
    assert_eq!(write(), fua(false));
    assert!(flushes(&select(&disk, &[(CACHING + 2, 0)])));
    assert_eq!((write(), sense(&disk, 0)[14]), (fua(true), 0));
    // The default values are those of the specification.
    assert_eq!(sense(&disk, 2)[14], 0x04);
    assert!(!flushes(&select(&disk, &[(CACHING + 2, 0x04)])));
    assert_eq!(write(), fua(false));
    select(&disk, &[(CACHING + 2, 0)]).unwrap();
    disk.reset();
    assert_eq!((write(), sense(&disk, 0)[14]), (fua(false), 0x04));
}

#[test]
fn a_disk_without_a_write_cache_says_so_and_gets_none() {
    let spec = DiskSpec { write_cache: WriteCache::Through, ..spec() };
    let disk = disk(8, BLOCK_SIZE, Provisioning::default(), &spec);
    assert_eq!((sense(&disk, 0)[14], sense(&disk, 1)[14], sense(&disk, 2)[14]), (0, 0, 0));
    let refused = select(&disk, &[(CACHING + 2, 0x04)]);
    assert_eq!(refused, Err(Sense::invalid_parameter(14, Some(2))));
    assert!(select(&disk, &[(CONTROL + 2, 0x04)]).is_ok());
    assert_eq!(sense(&disk, 0)[14], 0);
}

#[test]
fn the_initiator_can_forbid_itself_to_write() {
    let disk = disk_of(1000);
    assert!(flushes(&select(&disk, &[(CONTROL + 4, 0x08)])));
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let protected = refused(SenseCode::WRITE_PROTECTED);
    assert_eq!(plan_of(&disk, &write), protected);
    assert!(plan_of(&disk, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).is_ok());
    assert_eq!(sense(&disk, 0)[2], 0x90);
    select(&disk, &[(CONTROL + 4, 0)]).unwrap();
    assert!(plan_of(&disk, &write).is_ok());
}

#[test]
fn the_initiator_can_choose_the_format_of_sense_data() {
    let disk = disk_of(8);
    assert!(!LogicalUnit::descriptor_sense(&disk));
    select(&disk, &[(CONTROL + 2, 0x04)]).unwrap();
    assert!(LogicalUnit::descriptor_sense(&disk));
    disk.reset();
    assert!(!LogicalUnit::descriptor_sense(&disk));
}

#[test]
fn a_wrong_list_changes_nothing() {
    let disk = disk_of(8);
    let wrong = select(&disk, &[(CACHING + 2, 0), (CONTROL + 3, 0)]);
    assert_eq!(wrong, Err(Sense::invalid_parameter(35, Some(4))));
    let unknown = select(&disk, &[(CACHING, 0x01)]);
    assert_eq!(unknown, Err(Sense::invalid_parameter(12, Some(5))));
    let other_capacity = select(&disk, &[(7, 9)]);
    assert_eq!(other_capacity, Err(Sense::invalid_parameter(4, None)));
    let list = sense(&disk, 0);
    let short = disk.plan_with(&Cdb::new(&[0x15, 0x10]), &list[..list.len() - 1]);
    assert_eq!(short, refused(SenseCode::PARAMETER_LIST_LENGTH_ERROR));
    assert_eq!(sense(&disk, 0)[14], 0x04);
    // PS is reserved in MODE SELECT.
    assert!(select(&disk, &[(CACHING, 0x88)]).is_ok());
}

#[test]
fn mode_select_10_takes_its_own_header() {
    let disk = disk_of(8);
    let list = data_of(&disk, &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255, 0]);
    let plan = disk.plan_with(&Cdb::new(&[0x55, 0x10]), &list);
    assert!(matches!(plan, Ok(Plan::Change { .. })));
    // What sd of Linux sends to turn the write cache off: no descriptor, one page.
    let mut caching = [&[0; 8], &data_of(&disk, &[0x1a, 0x08, 0x08])[4..]].concat();
    caching[10] = 0;
    assert!(flushes(&disk.plan_with(&Cdb::new(&[0x55, 0x10]), &caching)));
}

#[test]
fn mode_select_takes_standard_pages_that_are_not_saved() {
    let select = |options: u8, len: u8| plan(&[0x15, options, 0, 0, len, 0]);
    assert_eq!(select(0x10, 24), Ok(Plan::Parameters { len: 24 }));
    assert_eq!(select(0x10, 0), Ok(Plan::Good));
    assert_eq!(select(0x00, 24), invalid_field(1, Some(4)));
    assert_eq!(select(0x11, 24), invalid_field(1, Some(0)));
    assert_eq!(select(0x12, 0), invalid_field(1, Some(1)));
    let ten = plan(&[0x55, 0x10, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(ten, Ok(Plan::Parameters { len: 256 }));
}
