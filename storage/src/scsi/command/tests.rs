use super::*;

fn find(device_type: u8, cdb: &[u8]) -> Option<&'static str> {
    Command::find(device_type, &Cdb::new(cdb)).map(|row| row.name)
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
fn an_opcode_means_what_the_device_makes_of_it() {
    for (device_type, cdb, name) in
        [(0x00, [0x42, 0], "UNMAP"), (0x05, [0x42, 0], "READ SUB-CHANNEL")]
    {
        assert_eq!(find(device_type, &cdb), Some(name));
    }
}
