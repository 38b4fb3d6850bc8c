//! What is told of a device, as plain data. The names of its fields are the keys of the JSON form,
//! which scripts rely on: new ones may be added, and none may change.
//!
//! Every text in it is printable. This file must not know how any of it is found or shown.

use serde::{Serialize, Serializer};

/// Everything about one device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// 1; a form that breaks scripts would have another.
    pub(crate) format: u32,
    /// What was asked about.
    pub(crate) path: String,
    pub(crate) device: Device,
    pub(crate) identity: Identity,
    pub(crate) limits: Vec<Limit>,
    pub(crate) pages: Vec<Page>,
    pub(crate) policy: Policy,
    pub(crate) reservations: Reservations,
    pub(crate) missing: Vec<Missing>,
}

/// Where the host has it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Device {
    /// Its nodes in /dev.
    pub(crate) nodes: Vec<String>,
    /// host:channel:target:lun
    pub(crate) address: Option<String>,
    pub(crate) transport: Option<String>,
    pub(crate) initiator_port: Option<String>,
    pub(crate) target_port: Option<String>,
    /// The nodes of the paths of a multipath map.
    pub(crate) paths: Vec<String>,
    /// What the host itself uses it for, and which other program has it.
    pub(crate) in_use: Vec<String>,
    /// Unit attentions that waited. Nobody else hears of them any more.
    pub(crate) attentions: Vec<String>,
}

/// What it says it is, to a guest.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Identity {
    /// PERIPHERAL DEVICE TYPE
    pub(crate) device_type: u8,
    pub(crate) type_name: &'static str,
    pub(crate) vendor: String,
    pub(crate) product: String,
    pub(crate) revision: String,
    pub(crate) serial: Option<String>,
    pub(crate) designators: Vec<Named>,
    pub(crate) capacity: Option<Capacity>,
}

/// A designator, and what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    pub(crate) association: &'static str,
    pub(crate) designator: String,
}

/// How much a medium holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Capacity {
    pub(crate) blocks: u64,
    /// Bytes of a logical block.
    pub(crate) block_size: u32,
}

/// A limit, and who set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    pub(crate) unit: &'static str,
    pub(crate) from: &'static str,
    /// Whether it is what a guest is told.
    pub(crate) effective: bool,
}

/// The standard INQUIRY data or a VPD page.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Page {
    /// The page code in hex, or "inquiry".
    pub(crate) page: String,
    pub(crate) name: &'static str,
    /// What the device answers.
    #[serde(serialize_with = "hex")]
    pub(crate) device: Option<Vec<u8>>,
    /// Why it does not.
    pub(crate) refused: Option<String>,
    /// What a guest gets.
    #[serde(serialize_with = "hex")]
    pub(crate) guest: Option<Vec<u8>>,
    pub(crate) fields: Vec<Field>,
}

/// A field of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) device: Option<Value>,
    pub(crate) guest: Option<Value>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Number(u64),
    Text(String),
}

/// What a guest may send.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Policy {
    pub(crate) preset: &'static str,
    pub(crate) read_only: bool,
    pub(crate) shared_nexus: bool,
    pub(crate) commands: Vec<Command>,
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Command {
    pub(crate) name: String,
    /// OPERATION CODE in hex.
    pub(crate) opcode: String,
    /// SERVICE ACTION in hex.
    pub(crate) service_action: Option<String>,
    pub(crate) verdict: Verdict,
    /// Why, unless it is simply allowed.
    pub(crate) why: Option<String>,
    /// How long it may take, in seconds.
    pub(crate) timeout: Option<u64>,
    /// Who says so.
    pub(crate) timeout_from: Option<&'static str>,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It goes to the device.
    Allowed,
    /// It is answered without the device.
    Virtual,
    /// It is refused.
    Refused,
}

/// Who has reserved it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reservations {
    /// PRGENERATION
    pub(crate) generation: Option<u32>,
    /// Keys that are registered, in hex.
    pub(crate) keys: Vec<String>,
    pub(crate) holder: Option<Holder>,
    pub(crate) registrations: Vec<Registration>,
    /// What could not be read, and why.
    pub(crate) unread: Vec<String>,
}

/// The reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    pub(crate) key: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// A registration of one I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Registration {
    pub(crate) key: String,
    /// R_HOLDER
    pub(crate) holder: bool,
    /// RELATIVE TARGET PORT IDENTIFIER, unless it holds for all.
    pub(crate) target_port: Option<u16>,
    /// TransportID
    pub(crate) initiator_port: String,
}

/// What stands in the way of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) effect: String,
    pub(crate) remedy: String,
}

fn hex<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    let digits =
        |bytes: &Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    bytes.as_ref().map(digits).serialize(serializer)
}
