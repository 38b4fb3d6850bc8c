//! Who has reserved a device: what PERSISTENT RESERVE IN tells (SPC-6, PERSISTENT RESERVE IN
//! command).
//!
//! This file must not know who may do something about it.

use storage::host::ScsiHost;
use storage::scsi::wire::{u16_at, u32_at, u64_at};

use super::ask::{NoAnswer, ask};
use super::fields::text;
use super::model::{Holder, Registration, Reservations};

const READ_KEYS: u8 = 0;
const READ_RESERVATION: u8 = 1;
const READ_FULL_STATUS: u8 = 3;
/// Room for an answer in bytes, which bounds what a device can make us read.
const ROOM: u16 = 0x8000;

/// Asks for all that is known.
pub(super) fn look(host: &dyn ScsiHost) -> Reservations {
    let mut found = Reservations::default();
    match reserve_in(host, READ_KEYS) {
        Ok(answer) => {
            found.generation = Some(u32_at(&answer, 0));
            found.keys = listed(&answer).chunks_exact(8).map(|key| hex(u64_at(key, 0))).collect();
        }
        Err(no) => found.unread.push(format!("READ KEYS {no}")),
    }
    match reserve_in(host, READ_RESERVATION) {
        Ok(answer) => found.holder = holder(listed(&answer)),
        Err(no) => found.unread.push(format!("READ RESERVATION {no}")),
    }
    match reserve_in(host, READ_FULL_STATUS) {
        Ok(answer) => found.registrations = registrations(listed(&answer)),
        Err(no) => found.unread.push(format!("READ FULL STATUS {no}")),
    }
    found
}

fn reserve_in(host: &dyn ScsiHost, service_action: u8) -> Result<Vec<u8>, NoAnswer> {
    let [high, low] = ROOM.to_be_bytes();
    ask(host, &[0x5e, service_action, 0, 0, 0, 0, 0, high, low, 0], usize::from(ROOM))
}

/// What follows the header, as long as the header and the answer say.
fn listed(answer: &[u8]) -> &[u8] {
    let rest = answer.get(8..).unwrap_or_default();
    let len = usize::try_from(u32_at(answer, 4)).unwrap_or(usize::MAX);
    rest.get(..len).unwrap_or(rest)
}

fn hex(key: u64) -> String {
    format!("{key:016x}")
}

fn holder(descriptor: &[u8]) -> Option<Holder> {
    let scope_and_type = *descriptor.get(13)?;
    Some(Holder { key: hex(u64_at(descriptor, 0)), kind: kind(scope_and_type & 0x0f) })
}

fn kind(code: u8) -> String {
    match code {
        1 => "write exclusive".into(),
        3 => "exclusive access".into(),
        5 => "write exclusive, registrants only".into(),
        6 => "exclusive access, registrants only".into(),
        7 => "write exclusive, all registrants".into(),
        8 => "exclusive access, all registrants".into(),
        other => format!("type {other:x}h"),
    }
}

fn registrations(mut rest: &[u8]) -> Vec<Registration> {
    let mut found = Vec::new();
    while let Some((descriptor, after)) = rest.split_at_checked(24) {
        let flags = descriptor.get(12).copied().unwrap_or(0);
        let len = usize::try_from(u32_at(descriptor, 20)).unwrap_or(usize::MAX);
        let transport_id = after.get(..len).unwrap_or(after);
        found.push(Registration {
            key: hex(u64_at(descriptor, 0)),
            holder: flags & 0x01 != 0,
            target_port: (flags & 0x02 == 0).then(|| u16_at(descriptor, 18)),
            initiator_port: initiator_port(transport_id),
        });
        rest = after.get(len..).unwrap_or_default();
    }
    found
}

/// A TransportID (SPC-6, TransportID identifiers).
fn initiator_port(id: &[u8]) -> String {
    let digits = |from: usize, len: usize| -> String {
        let bytes = id.get(from..).and_then(|rest| rest.get(..len)).unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    match id.first().map(|first| first & 0x0f) {
        Some(0) => format!("fc {}", digits(8, 8)),
        Some(4) => format!("srp {}", digits(8, 16)),
        Some(5) => format!("iscsi {}", text(id.get(4..).unwrap_or_default())),
        Some(6) => format!("sas {}", digits(4, 8)),
        Some(other) => format!("protocol {other:x}h {}", digits(0, id.len().min(64))),
        None => "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use storage::testing::{FakeHost, Outcome};

    use super::*;

    fn answer(generation: u32, list: &[u8]) -> Vec<u8> {
        let len = u32::try_from(list.len()).unwrap();
        [&generation.to_be_bytes()[..], &len.to_be_bytes(), list].concat()
    }

    fn full_status() -> Vec<u8> {
        let mut sas = [0; 48];
        (sas[7], sas[12], sas[13], sas[19], sas[23]) = (0xaa, 0x01, 0x05, 2, 24);
        (sas[24], sas[28]) = (0x06, 0x50);
        let name = b"iqn.2026-11.org.example:a,i,0x80\0\0\0\0";
        let mut iscsi = [&[0; 24][..], &[0x45, 0, 0, 36], name].concat();
        (iscsi[7], iscsi[12], iscsi[23]) = (0xbb, 0x02, 40);
        [&sas[..], &iscsi].concat()
    }

    #[test]
    fn all_that_is_told() {
        let host = FakeHost::default();
        let keys = [0xaa_u64.to_be_bytes(), 0xbb_u64.to_be_bytes()].concat();
        let mut reservation = [0; 16];
        (reservation[7], reservation[13]) = (0xaa, 0x05);
        for bytes in [answer(7, &keys), answer(7, &reservation), answer(7, &full_status())] {
            host.on(0x5e, Outcome::data(&bytes));
        }
        let found = look(&host);
        assert_eq!(found.generation, Some(7));
        assert_eq!(found.keys, ["00000000000000aa", "00000000000000bb"]);
        let holder = found.holder.unwrap();
        assert_eq!(
            (&holder.key, holder.kind.as_str()),
            (&found.keys[0], "write exclusive, registrants only")
        );
        let [sas, iscsi] = &found.registrations[..] else { panic!("{:?}", found.registrations) };
        assert_eq!((sas.holder, sas.target_port), (true, Some(2)));
        assert_eq!(sas.initiator_port, "sas 5000000000000000");
        assert_eq!((iscsi.holder, iscsi.target_port), (false, None));
        assert_eq!(iscsi.initiator_port, "iscsi iqn.2026-11.org.example:a,i,0x80");
        let asked = host.take_sent();
        assert!(asked.iter().all(|sent| sent.data_out.is_empty() && sent.cdb[0] == 0x5e));
        assert_eq!(found.unread, [""; 0]);
    }

    #[test]
    fn nobody_has_reserved_it() {
        let host = FakeHost::default();
        (0..3).for_each(|_| host.on(0x5e, Outcome::data(&answer(0, &[]))));
        let found = look(&host);
        assert_eq!(found, Reservations { generation: Some(0), ..Reservations::default() });
    }

    #[test]
    fn what_is_not_permitted_is_said() {
        let host = FakeHost::default();
        (0..3).for_each(|_| host.on(0x5e, Outcome::Errno(libc::EPERM)));
        let found = look(&host);
        assert_eq!(found.generation, None);
        assert_eq!(found.unread.len(), 3);
        assert_eq!(found.unread[0], "READ KEYS needs CAP_SYS_RAWIO");
    }

    #[test]
    fn lengths_that_lie_hurt_nobody() {
        let list = full_status();
        for cut in 0..list.len() {
            let _ = registrations(&list[..cut]);
            let mut lying = answer(1, &list[..cut]);
            lying[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
            assert_eq!(listed(&lying).len(), cut);
            let _ = holder(listed(&lying));
        }
        let mut endless = full_status();
        endless[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(registrations(&endless).len(), 1);
        assert_eq!(initiator_port(&[]), "none");
        assert_eq!(initiator_port(&[0x06]), "sas ");
    }
}
