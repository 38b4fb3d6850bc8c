//! A report in both of its forms, as it is to stay.

use super::model::*;
use super::text::Text;
use super::{fields, json};

/// A disk without a Block Limits page of its own.
fn report() -> Report {
    Report {
        format: 1,
        path: "/dev/sg1".into(),
        device: device(),
        identity: identity(),
        limits: limits(),
        pages: pages(),
        policy: policy(),
        reservations: reservations(),
        missing: vec![Missing {
            what: "CAP_SYS_RAWIO".into(),
            effect: "no command that needs privilege is sent".into(),
            remedy: "configure a broker".into(),
        }],
    }
}

fn device() -> Device {
    Device {
        nodes: vec!["/dev/sg1".into(), "/dev/sdb".into()],
        address: Some("2:0:1:7".into()),
        transport: Some("fc".into()),
        initiator_port: Some("naa.5001438012345678".into()),
        target_port: Some("naa.500143801234567a".into()),
        paths: Vec::new(),
        in_use: vec!["is mounted at /data".into()],
        attentions: vec!["6/29/00".into()],
    }
}

fn identity() -> Identity {
    let designator = "naa.5001405000000001".into();
    Identity {
        device_type: 0,
        type_name: "direct access block device",
        vendor: "LIO-ORG".into(),
        product: "disk".into(),
        revision: "4.0".into(),
        serial: Some("S 1".into()),
        designators: vec![Named { association: "logical unit", designator }],
        capacity: Some(Capacity { blocks: 41_943_040, block_size: 512 }),
    }
}

fn limits() -> Vec<Limit> {
    let (effective, from) = (true, "max_sectors_kb of the host");
    vec![
        Limit { name: "maximum transfer length", value: 512, unit: "blocks", from, effective },
        Limit {
            name: "queue depth",
            value: 32,
            unit: "commands",
            from: "the host",
            effective: false,
        },
    ]
}

fn pages() -> Vec<Page> {
    let list =
        |codes: &[u8]| Some([&[0, 0, 0, u8::try_from(codes.len()).unwrap()], codes].concat());
    let serial = || Some(b"\0\x80\0\x03S 1".to_vec());
    let mut limits = vec![0; 64];
    (limits[1], limits[3], limits[10]) = (0xb0, 60, 2);
    vec![
        page(0x00, list(&[0, 0x80, 0x83]), list(&[0, 0x80, 0x83, 0xb0])),
        page(0x80, serial(), serial()),
        page(0xb0, None, Some(limits)),
        page(0xb2, Some(vec![0, 0xb2, 0, 4, 0, 0xe4, 2, 0]), None),
    ]
}

fn page(code: u8, device: Option<Vec<u8>>, guest: Option<Vec<u8>>) -> Page {
    let which = fields::Which::Vpd(code);
    Page {
        page: format!("{code:02x}"),
        name: which.name(0),
        refused: device.is_none().then(|| "ends with sense 5/24/00".into()),
        fields: fields::fields(which, 0, device.as_deref(), guest.as_deref()),
        device,
        guest,
    }
}

fn policy() -> Policy {
    let refused = Command {
        name: "REGISTER AND MOVE".into(),
        opcode: "5f".into(),
        service_action: Some("07".into()),
        verdict: Verdict::Refused,
        why: Some("policy".into()),
        timeout: None,
        timeout_from: None,
    };
    let answered = Command {
        name: "REPORT LUNS".into(),
        opcode: "a0".into(),
        service_action: None,
        verdict: Verdict::Virtual,
        why: None,
        ..refused.clone()
    };
    let allowed = Command {
        name: "WRITE(10)".into(),
        opcode: "2a".into(),
        verdict: Verdict::Allowed,
        timeout: Some(30),
        timeout_from: Some("its kind"),
        ..answered.clone()
    };
    let commands = vec![allowed, answered, refused];
    Policy { preset: "disk-rw", read_only: false, shared_nexus: true, commands }
}

fn reservations() -> Reservations {
    let key = || "00000000000000aa".to_owned();
    Reservations {
        generation: Some(3),
        keys: vec![key()],
        holder: Some(Holder { key: key(), kind: "write exclusive".into() }),
        registrations: vec![Registration {
            key: key(),
            holder: true,
            target_port: None,
            initiator_port: "fc 5001438012345678".into(),
        }],
        unread: vec!["READ FULL STATUS ends with sense 5/24/00".into()],
    }
}

#[test]
fn the_form_for_people() {
    assert_eq!(Text(&report()).to_string(), include_str!("tests/report.txt"));
}

#[test]
fn the_form_for_programs() {
    assert_eq!(json::json(&report()), include_str!("tests/report.json"));
}
