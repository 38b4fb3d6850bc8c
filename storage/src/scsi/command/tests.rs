use super::*;
use crate::scsi::opcode::{Medium, OPCODES};
use proptest::prelude::*;

fn row(device_type: u8, cdb: &[u8]) -> &'static Command {
    Command::find(device_type, &Cdb::new(cdb)).unwrap_or_else(|| panic!("{cdb:02x?}"))
}

fn variable(action: u16) -> Cdb {
    let [high, low] = action.to_be_bytes();
    Cdb::new(&[VARIABLE_LENGTH, 0, 0, 0, 0, 0, 0, 0x18, high, low])
}

#[test]
fn no_two_rows_mean_one_thing() {
    let rows: Vec<_> = commands().collect();
    for (index, row) in rows.iter().enumerate() {
        for other in &rows[..index] {
            let same = row.opcode == other.opcode && row.types.overlaps(other.types);
            let both = row.service_action.is_some() && other.service_action.is_some();
            let apart = both && row.service_action != other.service_action;
            assert!(!same || apart, "{} and {}", row.name, other.name);
        }
    }
}

#[test]
fn rows_are_found_by_their_codes_and_carry_the_length_of_their_group() {
    for row in commands() {
        let cdb = match (row.opcode, row.service_action) {
            (VARIABLE_LENGTH, action) => variable(action.unwrap()),
            (opcode, action) => {
                let action = u8::try_from(action.unwrap_or(0)).unwrap();
                assert!(action < 0x20, "{}", row.name);
                Cdb::new(&[opcode, action])
            }
        };
        for device_type in (0..0x20).filter(|device_type| row.types.contains(*device_type)) {
            assert_eq!(Command::find(device_type, &cdb), Some(row));
        }
        assert_eq!(row.cdb_len, cdb_len(row.opcode), "{}", row.name);
        assert!(row.transfer != Transfer::None || row.direction == Direction::None, "{}", row.name);
        assert!(row.transfer == Transfer::None || row.direction != Direction::None, "{}", row.name);
    }
    assert_eq!([0x12, 0x28, 0x88, 0xa8, 0x7f, 0xc0].map(cdb_len), [6, 10, 16, 12, 32, 16]);
}

/// What the table of emulated disks says, the table of all devices says too.
#[test]
fn both_tables_agree_on_disks() {
    for opcode in OPCODES {
        let action = opcode.service_action.unwrap_or(0);
        let row = row(device_type::DISK, &[opcode.opcode, action]);
        assert_eq!(row.name, opcode.name);
        assert_eq!(row.service_action, opcode.service_action.map(u16::from), "{}", row.name);
        assert_eq!(usize::from(row.cdb_len), opcode.usage.len(), "{}", row.name);
        let medium = match row.effect {
            Effect::Medium => Medium::Modified,
            Effect::Reads => Medium::Accessed,
            _ => Medium::Untouched,
        };
        assert_eq!(medium, opcode.medium, "{}", row.name);
    }
}

/// One opcode, and what it is to a disk, a tape, a CD device, a changer and an array controller.
const OVERLAPS: [(u8, [Option<&str>; 5]); 31] = [
    (0x01, [Some("REZERO UNIT"), Some("REWIND"), Some("REZERO UNIT"), None, None]),
    (0x04, [Some("FORMAT UNIT"), Some("FORMAT MEDIUM"), Some("FORMAT UNIT"), None, None]),
    (0x07, [Some("REASSIGN BLOCKS"), None, None, Some("INITIALIZE ELEMENT STATUS"), None]),
    (0x08, [Some("READ(6)"), Some("READ(6)"), None, None, None]),
    (0x0a, [Some("WRITE(6)"), Some("WRITE(6)"), None, None, None]),
    (0x0b, [Some("SEEK(6)"), Some("SET CAPACITY"), Some("SEEK(6)"), None, None]),
    (
        0x16,
        [
            Some("RESERVE(6)"),
            Some("RESERVE(6)"),
            Some("RESERVE(6)"),
            Some("RESERVE ELEMENT(6)"),
            Some("RESERVE(6)"),
        ],
    ),
    (
        0x1b,
        [
            Some("START STOP UNIT"),
            Some("LOAD UNLOAD"),
            Some("START STOP UNIT"),
            Some("OPEN/CLOSE IMPORT/EXPORT ELEMENT"),
            None,
        ],
    ),
    (0x25, [Some("READ CAPACITY(10)"), None, Some("READ CAPACITY"), None, None]),
    (
        0x2b,
        [Some("SEEK(10)"), Some("LOCATE(10)"), Some("SEEK(10)"), Some("POSITION TO ELEMENT"), None],
    ),
    (0x34, [Some("PRE-FETCH(10)"), Some("READ POSITION - SHORT FORM"), None, None, None]),
    (
        0x37,
        [
            Some("READ DEFECT DATA(10)"),
            None,
            None,
            Some("INITIALIZE ELEMENT STATUS WITH RANGE"),
            None,
        ],
    ),
    (0x42, [Some("UNMAP"), None, Some("READ SUB-CHANNEL"), None, None]),
    (
        0x44,
        [
            None,
            Some("REPORT DENSITY SUPPORT"),
            Some("READ HEADER"),
            Some("REPORT VOLUME TYPES SUPPORTED"),
            None,
        ],
    ),
    (0x48, [None, None, Some("PLAY AUDIO TRACK INDEX"), None, None]),
    (0x51, [Some("XPWRITE(10)"), None, Some("READ DISC INFORMATION"), None, None]),
    (0x53, [Some("XDWRITEREAD(10)"), None, Some("RESERVE TRACK"), None, None]),
    (0x80, [Some("XDWRITE EXTENDED(16)"), Some("WRITE FILEMARKS(16)"), None, None, None]),
    (0x81, [Some("REBUILD(16)"), Some("READ REVERSE(16)"), None, None, None]),
    (0x82, [Some("REGENERATE(16)"), Some("ALLOW OVERWRITE"), None, None, None]),
    (0x85, [Some("ATA PASS-THROUGH(16)"), None, Some("ATA PASS-THROUGH(16)"), None, None]),
    (0x91, [Some("SYNCHRONIZE CACHE(16)"), Some("SPACE(16)"), None, None, None]),
    (0x92, [Some("LOCK UNLOCK CACHE(16)"), Some("LOCATE(16)"), None, None, None]),
    (0x93, [Some("WRITE SAME(16)"), Some("ERASE(16)"), None, None, None]),
    (0xa1, [Some("ATA PASS-THROUGH(12)"), None, Some("BLANK"), None, None]),
    (0xa2, [Some("SECURITY PROTOCOL IN"); 5]),
    (0xa3, [None, None, Some("SEND KEY"), None, Some("REPORT ASSIGNED/UNASSIGNED P_EXTENT")]),
    (0xa4, [None, None, Some("REPORT KEY"), None, Some("ADD PERIPHERAL DEVICE/COMPONENT DEVICE")]),
    (0xa6, [None, None, Some("LOAD/UNLOAD MEDIUM"), Some("EXCHANGE MEDIUM"), None]),
    (
        0xb5,
        [
            Some("SECURITY PROTOCOL OUT"),
            Some("SECURITY PROTOCOL OUT"),
            Some("SECURITY PROTOCOL OUT"),
            Some("REQUEST VOLUME ELEMENT ADDRESS"),
            Some("SECURITY PROTOCOL OUT"),
        ],
    ),
    (
        0xbe,
        [
            Some("VOLUME SET IN"),
            None,
            Some("READ CD"),
            Some("VOLUME SET IN"),
            Some("VOLUME SET IN"),
        ],
    ),
];

#[test]
fn an_opcode_means_what_the_device_makes_of_it() {
    use device_type::{CD, CHANGER, DISK, RAID, TAPE};
    for (opcode, names) in OVERLAPS {
        for (device_type, name) in [DISK, TAPE, CD, CHANGER, RAID].into_iter().zip(names) {
            let found = Command::find(device_type, &Cdb::new(&[opcode])).map(|row| row.name);
            assert_eq!(found, name, "{opcode:02x} to {device_type:02x}");
        }
    }
}

#[test]
fn service_actions_stand_where_their_opcode_has_them() {
    assert_eq!(row(0, &[0xa4, 0xea]).name, "SET TARGET PORT GROUPS");
    assert_eq!(row(0, &[0x48, 0x83]).name, "SANITIZE - CRYPTOGRAPHIC ERASE");
    assert_eq!(Command::find(0, &Cdb::new(&[0x48, 0x04])), None);
    assert_eq!(Command::find(0, &variable(0x1ff0)).unwrap().name, "ATA PASS-THROUGH(32)");
    // To a tape, 1Dh of MAINTENANCE IN is something else than to a disk.
    assert_eq!(row(0, &[0xa3, 0x1d]).name, "REPORT PROVISIONING INITIALIZATION PATTERN");
    assert_eq!(row(1, &[0xa3, 0x1d]).name, "RECEIVE RECOMMENDED ACCESS ORDER");
    // In byte 1 of a READ CD nothing selects another command.
    assert_eq!(row(5, &[0xbe, 0x1f]).name, "READ CD");
}

#[test]
fn data_goes_the_way_of_its_meaning() {
    use Direction::{Either, In, None, Out};
    for (device_type, cdb, direction) in [
        (0x00, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24][..], Out),
        (0x05, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24], In),
        (0x00, &[0x48, 0x01, 0, 0, 0, 0, 0, 0, 8], Out),
        (0x05, &[0x48, 0x01, 0, 0, 0, 0, 0, 0, 8], None),
        (0x00, &[0xa1], Either),
        (0x05, &[0xa1], None),
        (0x00, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8], Out),
        (0x05, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8], In),
        (0x00, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8], In),
        (0x05, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8], Out),
        (0x08, &[0xb5, 0, 0, 0, 0, 0, 0, 0, 0, 8], In),
        (0x00, &[0xb5, 0, 0, 0, 0, 0, 0, 0, 0, 8], Out),
        (0x00, &[0x2f, 0, 0, 0, 0, 0, 0, 0, 1], None),
        (0x00, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 1], Out),
        (0x00, &[0x95, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64], In),
        (0x00, &[0x28], None),
    ] {
        let cdb = Cdb::new(cdb);
        let row = Command::find(device_type, &cdb).unwrap();
        assert_eq!(row.direction_of(&cdb), direction, "{}", row.name);
    }
}

#[test]
fn transfers_are_as_long_as_their_cdbs_say() {
    const DISK: BlockFormat = BlockFormat { size: 512, protection: 8 };
    let long = |action: u16, options: u8| {
        let mut cdb = variable(action);
        cdb.0[10] = options;
        cdb.0[31] = 3;
        cdb.0
    };
    for (device_type, cdb, len) in [
        (0, &[0x08, 0, 0, 0, 2][..], Some(1024)),
        (0, &[0x08, 0xe0, 0, 0, 0], Some(256 * 512)),
        (0, &[0x28, 0, 0, 0, 0, 0, 0, 1, 2], Some(258 * 512)),
        (0, &[0x28, 0x20, 0, 0, 0, 0, 0, 0, 2], Some(2 * 520)),
        (0, &[0x2a, 0x18, 0, 0, 0, 0, 0, 0, 2], Some(2 * 512)),
        (0, &[0xa8, 0, 0, 0, 0, 0, 0, 1, 0, 0], Some(0x10000 * 512)),
        (0, &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Some(0x100_0000 * 512)),
        (0, &[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 3], Some(3 * 512)),
        (0, &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(6 * 512)),
        (0, &[0x89, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(6 * 520)),
        (0, &[0x8f, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(0)),
        (0, &[0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(3 * 512)),
        (0, &[0x8f, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(512)),
        (0, &[0x93, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(512)),
        (0, &[0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], Some(0)),
        (0, &[0x41, 0x01, 0, 0, 0, 0, 0, 0, 3], Some(512)),
        (0, &long(0x09, 0), Some(3 * 512)),
        (0, &long(0x0b, 0x20), Some(3 * 520)),
        (0, &long(0x0a, 0x06), Some(512)),
        (0, &long(0x0d, 0x01), Some(0)),
        (0, &[0x25], Some(8)),
        (0, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], Some(32)),
        (0, &[0x12, 0, 0, 1, 2], Some(258)),
        (0, &[0x3c, 0x0a, 0, 0, 0, 0, 1, 0, 0], Some(0x10000)),
        (0, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24], Some(24)),
        (0, &[0xa2, 0, 0, 0, 0, 0, 0, 0, 0, 2], Some(2)),
        (0, &[0xa2, 0, 0, 0, 0x80, 0, 0, 0, 0, 2], Some(1024)),
        (0, &[0x04, 0x10], None),
        (0, &[0x85], None),
        (1, &[0x08, 0x00, 0, 1, 0], Some(256)),
        (1, &[0x08, 0x01, 0, 1, 0], Some(256 * 512)),
        (1, &[0x8a, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], Some(1024)),
        (1, &[0x8a, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2], Some(0x10002)),
        (1, &[0x13, 0x01, 0, 0, 2], Some(0)),
        (1, &[0x13, 0x03, 0, 0, 2], Some(1024)),
        (1, &[0x13, 0x02, 0, 0, 2], Some(2)),
        (1, &[0x34, 0x06], Some(32)),
        (5, &[0xbe], None),
        (5, &[0x43, 0, 0, 0, 0, 0, 0, 3, 0x24], Some(804)),
        (8, &[0xb8, 0, 0, 0, 0, 0, 0, 1, 0, 0], Some(0x10000)),
    ] {
        let row = row(device_type, cdb);
        assert_eq!(row.transfer_length(&Cdb::new(cdb), DISK), len, "{} {cdb:02x?}", row.name);
    }
}

#[test]
fn what_may_be_repeated_is_as_the_contract_says() {
    for cdb in [
        &[0x12, 0][..],
        &[0x00],
        &[0x08],
        &[0x28],
        &[0xa8],
        &[0x88],
        &[0x25],
        &[0x9e, 0x10],
        &[0x1a],
        &[0x5a],
        &[0x4d],
        &[0xa3, 0x0c],
    ] {
        assert!(row(0x00, cdb).idempotent(0x00), "{cdb:02x?}");
        assert!(row(0x14, cdb).idempotent(0x14), "{cdb:02x?}");
    }
    for cdb in [[0x0a], [0x2a], [0xaa], [0x8a], [0x41], [0x93], [0x42]] {
        assert!(row(0x00, &cdb).idempotent(0x00), "{cdb:02x?}");
        assert!(!row(0x14, &cdb).idempotent(0x14), "{cdb:02x?}");
    }
    for (device_type, cdb) in [
        (0, &[0x89][..]),
        (0, &[0x8b]),
        (0, &[0x9c]),
        (0, &[0x35]),
        (0, &[0x5f, 0x00]),
        (0, &[0x94, 0x04]),
        (0, &[0x1b]),
        (0, &[0x15]),
        (0, &[0x03]),
        (0, &[0x85]),
        (1, &[0x08]),
        (1, &[0x0a]),
        (1, &[0x11]),
        (1, &[0x01]),
        (5, &[0x2a]),
        (5, &[0x4a]),
        (7, &[0x2a]),
        (8, &[0xa5]),
    ] {
        assert!(!row(device_type, cdb).idempotent(device_type), "{cdb:02x?}");
    }
}

#[test]
fn what_takes_long_may_take_long() {
    let time = |device_type: u8, cdb: &[u8]| row(device_type, cdb).time;
    assert_eq!((time(0, &[0x12]), time(0, &[0x28])), (TimeClass::Short, TimeClass::Access));
    for cdb in [[0x04, 0], [0x48, 1], [0x9e, 0x18]] {
        assert_eq!(time(0, &cdb), TimeClass::Whole);
    }
    for (device_type, cdb) in [(1, 0x01), (1, 0x19), (1, 0x2b), (1, 0x92), (5, 0xa1), (0, 0x1d)] {
        assert_eq!(time(device_type, &[cdb]), TimeClass::Long, "{cdb:02x}");
    }
    let classes =
        [TimeClass::Short, TimeClass::Access, TimeClass::Slow, TimeClass::Long, TimeClass::Whole];
    assert!(classes.is_sorted_by_key(|class| class.timeout()));
}

proptest! {
    #[test]
    fn no_cdb_panics(
        device_type in any::<u8>(),
        cdb in prop::array::uniform32(any::<u8>()),
        size in any::<u32>(),
        protection in any::<u32>(),
    ) {
        let cdb = Cdb(cdb);
        if let Some(row) = Command::find(device_type, &cdb) {
            let _ = row.transfer_length(&cdb, BlockFormat { size, protection });
            let _ = (row.direction_of(&cdb), row.idempotent(device_type));
        }
    }
}
