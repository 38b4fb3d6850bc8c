//! What a device server supports: parameter data of REPORT SUPPORTED OPERATION CODES and REPORT
//! SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-6).

use super::opcode::Opcode;
use super::wire::{put_u16, put_u32};

/// A command timeouts descriptor that recommends nothing.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The all_commands parameter data that lists `rows`, with `timeouts` (RCTD) each with a command
/// timeouts descriptor.
#[must_use]
pub fn all_commands<'a>(rows: impl Iterator<Item = &'a Opcode>, timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    rows.for_each(|row| data.extend(descriptor(row, timeouts)));
    let len = u32::try_from(data.len() - 4).unwrap_or(u32::MAX);
    put_u32(&mut data, 0, len);
    data
}

/// The command descriptor of `row`, with `timeouts` with a command timeouts descriptor.
#[must_use]
pub fn descriptor(row: &Opcode, timeouts: bool) -> Vec<u8> {
    const CTDP: u8 = 0x02;
    const SERVACTV: u8 = 0x01;
    let mut bytes = vec![0; 8];
    bytes[0] = row.opcode;
    if let Some(service_action) = row.service_action {
        put_u16(&mut bytes, 2, service_action.into());
        bytes[5] = SERVACTV;
    }
    put_u16(&mut bytes, 6, cdb_len(row));
    if timeouts {
        bytes[5] |= CTDP;
        bytes.extend(TIMEOUTS);
    }
    bytes
}

/// The one_command parameter data of `row`, or of a command that is not supported.
#[must_use]
pub fn one_command(row: Option<&Opcode>, timeouts: bool) -> Vec<u8> {
    const CTDP: u8 = 0x80;
    const NOT_SUPPORTED: u8 = 1;
    const AS_STANDARD: u8 = 3;
    let Some(row) = row else { return vec![0, NOT_SUPPORTED, 0, 0] };
    let mut data = vec![0, AS_STANDARD, 0, 0];
    put_u16(&mut data, 2, cdb_len(row));
    data.extend(row.usage);
    data[4] = row.opcode;
    if timeouts {
        data[1] |= CTDP;
        data.extend(TIMEOUTS);
    }
    data
}

fn cdb_len(row: &Opcode) -> u16 {
    u16::try_from(row.usage.len()).unwrap_or(0)
}

/// The parameter data of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, with `extended` (REPD) in its
/// long form, which recommends no timeouts: all that SAM-6 has but CLEAR ACA, since there is no
/// ACA, and QUERY ASYNCHRONOUS EVENT.
#[must_use]
pub fn task_management_functions(extended: bool) -> Vec<u8> {
    const ATS: u8 = 0x80;
    const ATSS: u8 = 0x40;
    const CTSS: u8 = 0x10;
    const LURS: u8 = 0x08;
    const QTS: u8 = 0x04;
    const QTSS: u8 = 0x02;
    const ITNRS: u8 = 0x01;
    let mut data = vec![0; if extended { 16 } else { 4 }];
    data[0] = ATS | ATSS | CTSS | LURS | QTS;
    data[1] = QTSS | ITNRS;
    data[3] = if extended { 12 } else { 0 };
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::cdb::Cdb;

    fn row(cdb: &[u8]) -> &'static Opcode {
        Opcode::find(&Cdb::new(cdb)).unwrap()
    }

    #[test]
    fn the_list_has_service_actions_and_lengths() {
        let rows = [row(&[0x28]), row(&[0x9e, 0x10])];
        let expected = [
            [0, 0, 0, 16].as_slice(),
            &[0x28, 0, 0, 0, 0, 0, 0, 10],
            &[0x9e, 0, 0, 0x10, 0, 1, 0, 16],
        ];
        assert_eq!(all_commands(rows.into_iter(), false), expected.concat());
        let with_timeouts = all_commands(rows.into_iter(), true);
        assert_eq!(with_timeouts[..4], [0, 0, 0, 40]);
        assert_eq!(with_timeouts[4..12], [0x28, 0, 0, 0, 0, 2, 0, 10]);
        assert_eq!(with_timeouts[12..24], TIMEOUTS);
        assert_eq!(with_timeouts[29], 3);
    }

    #[test]
    fn one_command_has_its_usage() {
        let expected = [0, 3, 0, 10, 0x2f, 0xf6, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 4];
        assert_eq!(one_command(Some(row(&[0x2f])), false), expected);
        let with_timeouts = one_command(Some(row(&[0x9e, 0x10])), true);
        assert_eq!(with_timeouts[..6], [0, 0x83, 0, 16, 0x9e, 0x10]);
        assert_eq!(with_timeouts[20..], TIMEOUTS);
        assert_eq!(one_command(None, true), [0, 1, 0, 0]);
    }

    #[test]
    fn task_management_functions_in_both_forms() {
        assert_eq!(task_management_functions(false), [0xdc, 3, 0, 0]);
        let long = task_management_functions(true);
        assert_eq!((long.len(), &long[..4]), (16, &[0xdc, 3, 0, 12][..]));
    }
}
