//! What the virtio-scsi driver and we write to each other (virtio 1.2, 5.6.4 and 5.6.6), as
//! little-endian bytes.

use storage::buffer::DataBuf;
use storage::scsi::cdb::Cdb;
use storage::target::address::{Lun, LunAddress};
use storage::target::{BusEvent, Function, Outcome};
use storage::task::{Response, SenseData, ServiceResponse, TaskAttribute};
use virtio_bindings::virtio_scsi::{VIRTIO_SCSI_F_CHANGE, VIRTIO_SCSI_F_HOTPLUG};

/// A response code (virtio 1.2, 5.6.6.1.1 and 5.6.6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseCode(u8);

impl ResponseCode {
    pub(super) const OK: ResponseCode = ResponseCode(0);
    const OVERRUN: ResponseCode = ResponseCode(1);
    const ABORTED: ResponseCode = ResponseCode(2);
    const BAD_TARGET: ResponseCode = ResponseCode(3);
    const RESET: ResponseCode = ResponseCode(4);
    const BUSY: ResponseCode = ResponseCode(5);
    const TRANSPORT_FAILURE: ResponseCode = ResponseCode(6);
    const TARGET_FAILURE: ResponseCode = ResponseCode(7);
    const NEXUS_FAILURE: ResponseCode = ResponseCode(8);
    pub(super) const FAILURE: ResponseCode = ResponseCode(9);
    const FUNCTION_SUCCEEDED: ResponseCode = ResponseCode(10);
    const FUNCTION_REJECTED: ResponseCode = ResponseCode(11);
    const INCORRECT_LUN: ResponseCode = ResponseCode(12);
}

impl From<Outcome> for ResponseCode {
    fn from(outcome: Outcome) -> ResponseCode {
        match outcome {
            Outcome::Complete => ResponseCode::OK,
            Outcome::Succeeded => ResponseCode::FUNCTION_SUCCEEDED,
            Outcome::Rejected => ResponseCode::FUNCTION_REJECTED,
            Outcome::BadTarget => ResponseCode::BAD_TARGET,
            Outcome::IncorrectLun => ResponseCode::INCORRECT_LUN,
            Outcome::Failed => ResponseCode::FAILURE,
        }
    }
}

impl From<ServiceResponse> for ResponseCode {
    fn from(why: ServiceResponse) -> ResponseCode {
        match why {
            ServiceResponse::BadTarget => ResponseCode::BAD_TARGET,
            ServiceResponse::Overrun => ResponseCode::OVERRUN,
            ServiceResponse::TargetFailure => ResponseCode::TARGET_FAILURE,
            ServiceResponse::Aborted => ResponseCode::ABORTED,
            ServiceResponse::Reset => ResponseCode::RESET,
            ServiceResponse::Busy => ResponseCode::BUSY,
            ServiceResponse::TransportFailure => ResponseCode::TRANSPORT_FAILURE,
            ServiceResponse::NexusFailure => ResponseCode::NEXUS_FAILURE,
            ServiceResponse::Failure => ResponseCode::FAILURE,
        }
    }
}

/// How long the variable parts of a command request are; the driver may change both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub(super) cdb: u32,
    pub(super) sense: u32,
}

impl Sizes {
    /// After a reset (virtio 1.2, 5.6.4).
    pub const DEFAULT: Sizes = Sizes { cdb: 32, sense: 96 };
    const MAX_CDB: u32 = 256;
    const MAX_SENSE: u32 = 252;

    pub(super) fn accept_cdb(&mut self, size: u32) {
        if (1..=Sizes::MAX_CDB).contains(&size) {
            self.cdb = size;
        }
    }

    pub(super) fn accept_sense(&mut self, size: u32) {
        if size <= Sizes::MAX_SENSE {
            self.sense = size;
        }
    }

    /// Bytes before data-out.
    pub(super) fn request_len(self) -> usize {
        CommandRequest::FIXED_LEN + self.cdb as usize
    }

    /// Bytes before data-in.
    pub(super) fn response_len(self) -> usize {
        RESPONSE_FIXED_LEN + self.sense as usize
    }
}

/// The head of a command request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommandRequest {
    pub(super) address: Option<LunAddress>,
    pub(super) tag: u64,
    pub(super) attribute: TaskAttribute,
    pub(super) cdb: Cdb,
}

impl CommandRequest {
    /// lun, id, task_attr, prio, crn
    const FIXED_LEN: usize = 19;

    /// As many bytes as matter: what the CDB has beyond that is cut off.
    pub(super) const MAX_LEN: usize = CommandRequest::FIXED_LEN + Cdb::MAX_LEN;

    pub(super) fn from_bytes(
        bytes: &[u8; CommandRequest::MAX_LEN],
        sizes: Sizes,
    ) -> CommandRequest {
        let (fixed, cdb) = bytes.split_at(CommandRequest::FIXED_LEN);
        let cdb = cdb.get(..sizes.cdb as usize).unwrap_or(cdb);
        CommandRequest {
            address: address(fixed.first_chunk()),
            tag: fixed[8..].first_chunk().map_or(0, |tag| u64::from_le_bytes(*tag)),
            attribute: attribute(fixed[16]),
            cdb: Cdb::new(cdb),
        }
    }
}

/// Reads task_attr. What is not known there may be taken as SIMPLE (virtio 1.2, 5.6.6.1), ACA
/// among it, since there is never an auto contingent allegiance.
fn attribute(task_attr: u8) -> TaskAttribute {
    match task_attr {
        1 => TaskAttribute::Ordered,
        2 => TaskAttribute::HeadOfQueue,
        _ => TaskAttribute::Simple,
    }
}

/// Reads a lun field: 1, the target, a single-level LUN, zeros; or the REPORT LUNS well-known
/// logical unit, which stands for that of target 0. `None` is an address without a target.
pub(super) fn address(lun: Option<&[u8; 8]>) -> Option<LunAddress> {
    match *lun? {
        [1, target, high, low, 0, 0, 0, 0] => {
            Some(LunAddress { target, lun: Lun::from_bytes([high, low]) })
        }
        [1, target, ..] => Some(LunAddress { target, lun: Lun::Unsupported }),
        [0xc1, 0x01, 0, 0, 0, 0, 0, 0] => Some(LunAddress { target: 0, lun: Lun::ReportLuns }),
        _ => None,
    }
}

/// sense_len, resid, status_qualifier, status, response
const RESPONSE_FIXED_LEN: usize = 12;

/// The response to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandResponse {
    head: [u8; RESPONSE_FIXED_LEN],
    sense: Vec<u8>,
    /// Bytes of the data buffers that were not transferred.
    pub(super) resid: u32,
}

impl CommandResponse {
    /// Without sense data.
    pub(super) const MIN_LEN: usize = RESPONSE_FIXED_LEN;

    /// To a request that cannot be understood.
    pub(super) const FAILURE: CommandResponse = CommandResponse::failed(ResponseCode::FAILURE);

    pub(super) fn new(response: Response, sizes: Sizes) -> CommandResponse {
        let (status, sense, resid) = match response {
            Response::Failed(why) => return CommandResponse::failed(why.into()),
            Response::Status { status, sense, resid } => (status, sense, resid),
        };
        let mut new = CommandResponse { resid, ..CommandResponse::failed(ResponseCode::OK) };
        new.head[4..8].copy_from_slice(&resid.to_le_bytes());
        new.head[10] = status.0;
        new.sense = match sense {
            None => return new,
            Some(SenseData::Own(sense)) => sense.to_bytes(sense.descriptor_format),
            Some(SenseData::Device(bytes)) => bytes.into_vec(),
        };
        new.sense.truncate(sizes.sense as usize);
        let sense_len = u32::try_from(new.sense.len()).unwrap_or(0);
        new.head[..4].copy_from_slice(&sense_len.to_le_bytes());
        new
    }

    const fn failed(code: ResponseCode) -> CommandResponse {
        let mut head = [0; RESPONSE_FIXED_LEN];
        head[11] = code.0;
        CommandResponse { head, sense: Vec::new(), resid: u32::MAX }
    }

    /// Writes it to the driver, and returns how many bytes that were; the rest of its room stays
    /// as it was.
    pub(super) fn write(&self, room: &mut DataBuf) -> usize {
        let head = room.write(&self.head);
        if self.sense.is_empty() {
            return head;
        }
        room.advance(head);
        head + room.write(&self.sense)
    }

    #[cfg(test)]
    fn bytes(&self) -> Vec<u8> {
        [&self.head, &*self.sense].concat()
    }
}

/// A request on the control queue (virtio 1.2, 5.6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlRequest {
    /// A task management function. It is `None` if it is not known, the address if it names no
    /// target.
    TaskManagement(Option<Function>, Option<LunAddress>),
    /// A query of, or subscription to, asynchronous notifications.
    AsyncNotification,
}

impl ControlRequest {
    /// The longest request, in bytes: type, subtype, lun, id.
    pub(super) const MAX_LEN: usize = 24;

    /// Reads what `bytes` holds of a request.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<ControlRequest> {
        const AN_LEN: usize = 16;
        let kind = u32::from_le_bytes(*bytes.first_chunk()?);
        match kind {
            0 => Some(ControlRequest::task_management(bytes.first_chunk()?)),
            1 | 2 if bytes.len() >= AN_LEN => Some(ControlRequest::AsyncNotification),
            _ => None,
        }
    }

    fn task_management(bytes: &[u8; ControlRequest::MAX_LEN]) -> ControlRequest {
        let subtype = bytes[4..].first_chunk().map_or(u32::MAX, |kind| u32::from_le_bytes(*kind));
        let tag = bytes[16..].first_chunk().map_or(0, |tag| u64::from_le_bytes(*tag));
        let function = match subtype {
            0 => Some(Function::AbortTask(tag)),
            1 => Some(Function::AbortTaskSet),
            2 => Some(Function::ClearAca),
            3 => Some(Function::ClearTaskSet),
            4 => Some(Function::NexusReset),
            5 => Some(Function::LogicalUnitReset),
            6 => Some(Function::QueryTask(tag)),
            7 => Some(Function::QueryTaskSet),
            _ => None,
        };
        ControlRequest::TaskManagement(function, address(bytes[8..].first_chunk()))
    }
}

/// An event (virtio 1.2, 5.6.6.3): event, lun, reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventRecord {
    kind: u32,
    lun: [u8; 8],
    reason: u32,
}

impl EventRecord {
    pub(super) const LEN: usize = 16;

    /// Nothing happened; serves to carry [`EventRecord::with_missed`].
    pub(super) const NONE: EventRecord = EventRecord { kind: 0, lun: [0; 8], reason: 0 };

    /// What tells a driver with these features of `event`; `None` if it does not want to know.
    pub(super) fn new(event: BusEvent, features: u64) -> Option<EventRecord> {
        const TRANSPORT_RESET: u32 = 1;
        const PARAM_CHANGE: u32 = 3;
        const RESCAN: u32 = 1;
        const REMOVED: u32 = 2;
        let (feature, kind, at, reason) = match event {
            BusEvent::Attached(at) => (VIRTIO_SCSI_F_HOTPLUG, TRANSPORT_RESET, at, RESCAN),
            BusEvent::Detached(at) => (VIRTIO_SCSI_F_HOTPLUG, TRANSPORT_RESET, at, REMOVED),
            BusEvent::Changed(at, code) => {
                let reason = u32::from(code.asc) | u32::from(code.ascq) << 8;
                (VIRTIO_SCSI_F_CHANGE, PARAM_CHANGE, at, reason)
            }
        };
        let wanted = features & 1 << feature != 0;
        wanted.then(|| EventRecord { kind, lun: lun_field(at), reason })
    }

    /// The same, and that events before it were lost.
    pub(super) fn with_missed(self) -> EventRecord {
        const EVENTS_MISSED: u32 = 0x8000_0000;
        EventRecord { kind: self.kind | EVENTS_MISSED, ..self }
    }

    pub(super) fn to_bytes(self) -> [u8; EventRecord::LEN] {
        let mut bytes = [0; EventRecord::LEN];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.lun);
        bytes[12..].copy_from_slice(&self.reason.to_le_bytes());
        bytes
    }
}

/// The lun field that names an address: 1, the target, and the logical unit as REPORT LUNS names
/// it.
fn lun_field(at: LunAddress) -> [u8; 8] {
    let [high, low] = at.lun.to_bytes();
    [1, at.target, high, low, 0, 0, 0, 0]
}

/// The response to a task management function.
pub(super) fn management_response(code: ResponseCode) -> [u8; 1] {
    [code.0]
}

/// The response to a request for asynchronous notifications, of which there are none:
/// event_actual, response.
pub(super) fn notification_response() -> [u8; 5] {
    [0, 0, 0, 0, ResponseCode::OK.0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::scsi::sense::{Sense, SenseCode};
    use storage::scsi::status::Status;

    #[test]
    fn both_address_formats_and_the_well_known_unit() {
        let at = |target, lun| Some(LunAddress { target, lun });
        for (lun, expected) in [
            ([1, 3, 0x00, 5, 0, 0, 0, 0], at(3, Lun::Unit(5))),
            ([1, 3, 0x40, 5, 0, 0, 0, 0], at(3, Lun::Unit(5))),
            ([1, 255, 0x7f, 0xff, 0, 0, 0, 0], at(255, Lun::Unit(Lun::MAX))),
            ([1, 3, 0xc1, 1, 0, 0, 0, 0], at(3, Lun::ReportLuns)),
            ([0xc1, 1, 0, 0, 0, 0, 0, 0], at(0, Lun::ReportLuns)),
            ([1, 3, 0x40, 5, 1, 0, 0, 0], at(3, Lun::Unsupported)),
            ([0, 3, 0x40, 5, 0, 0, 0, 0], None),
        ] {
            assert_eq!(address(Some(&lun)), expected, "{lun:02x?}");
        }
    }

    #[test]
    fn a_cdb_is_as_long_as_the_driver_said() {
        let mut bytes = [0xee; CommandRequest::MAX_LEN];
        bytes[..8].copy_from_slice(&[1, 0, 0x40, 0, 0, 0, 0, 0]);
        let request = CommandRequest::from_bytes(&bytes, Sizes { cdb: 16, sense: 96 });
        assert_eq!(request.cdb, Cdb::new(&[0xee; 16]));
    }

    #[test]
    fn golden_responses() {
        let sense = Response::check_condition(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED, 0x0102);
        let response = CommandResponse::new(sense, Sizes::DEFAULT);
        let bytes = response.bytes();
        assert_eq!(bytes[..12], [18, 0, 0, 0, 2, 1, 0, 0, 0, 0, 2, 0]);
        assert_eq!((bytes.len(), bytes[12], bytes[14], bytes[24]), (30, 0x70, 5, 0x25));
        let busy = Response::Status { status: Status::BUSY, sense: None, resid: 0 };
        let response = CommandResponse::new(busy, Sizes::DEFAULT);
        assert_eq!(response.bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        let nobody = Response::Failed(ServiceResponse::BadTarget);
        assert_eq!(CommandResponse::new(nobody, Sizes::DEFAULT).bytes()[10..], [0, 3]);
        assert_eq!(CommandResponse::FAILURE.bytes()[10..], [0, 9]);
    }

    #[test]
    fn the_longest_sense_data_has_room() {
        let field = Sense::invalid_field(1, None);
        let sense = Sense { information: Some(1), descriptor_format: true, ..field };
        let response = CommandResponse::new(Response::check_condition(sense, 0), Sizes::DEFAULT);
        assert_eq!(response.bytes()[0], 28);
        assert_eq!(response.bytes()[12..], sense.to_descriptor());
    }

    #[test]
    fn sense_data_is_cut_to_the_drivers_size() {
        let sense = Response::check_condition(SenseCode::WRITE_ERROR, 0);
        let response = CommandResponse::new(sense, Sizes { cdb: 32, sense: 8 });
        assert_eq!((response.bytes()[0], response.bytes().len()), (8, 20));
    }

    #[test]
    fn sizes_out_of_range_are_not_accepted() {
        let mut sizes = Sizes::DEFAULT;
        sizes.accept_cdb(0);
        sizes.accept_cdb(257);
        sizes.accept_sense(253);
        assert_eq!(sizes, Sizes::DEFAULT);
        sizes.accept_cdb(16);
        sizes.accept_sense(0);
        assert_eq!((sizes.request_len(), sizes.response_len()), (35, 12));
    }

    #[test]
    fn each_task_management_function_has_its_address_and_tag() {
        let functions = [
            Some(Function::AbortTask(0x0807_0605_0403_0201)),
            Some(Function::AbortTaskSet),
            Some(Function::ClearAca),
            Some(Function::ClearTaskSet),
            Some(Function::NexusReset),
            Some(Function::LogicalUnitReset),
            Some(Function::QueryTask(0x0807_0605_0403_0201)),
            Some(Function::QueryTaskSet),
            None,
        ];
        for (subtype, function) in (0..).zip(functions) {
            let mut bytes = [0; 24];
            bytes[4] = subtype;
            bytes[8..12].copy_from_slice(&[1, 3, 0x41, 0]);
            bytes[16..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
            let at = Some(LunAddress { target: 3, lun: Lun::Unit(256) });
            let expected = ControlRequest::TaskManagement(function, at);
            assert_eq!(ControlRequest::from_bytes(&bytes), Some(expected));
        }
    }

    #[test]
    fn golden_events() {
        const ALL: u64 = 1 << VIRTIO_SCSI_F_HOTPLUG | 1 << VIRTIO_SCSI_F_CHANGE;
        let at = LunAddress { target: 3, lun: Lun::Unit(256) };
        let changed = BusEvent::Changed(at, SenseCode::CAPACITY_DATA_HAS_CHANGED);
        for (event, feature, bytes) in [
            (BusEvent::Attached(at), 1, [1, 0, 0, 0, 1, 3, 0x41, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
            (BusEvent::Detached(at), 1, [1, 0, 0, 0, 1, 3, 0x41, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
            (changed, 2, [3, 0, 0, 0, 1, 3, 0x41, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]),
        ] {
            assert_eq!(EventRecord::new(event, ALL).unwrap().to_bytes(), bytes);
            assert_eq!(EventRecord::new(event, ALL & !(1 << feature)), None);
        }
        assert_eq!(EventRecord::NONE.with_missed().to_bytes()[..4], [0, 0, 0, 0x80]);
    }

    #[test]
    fn control_requests_are_told_apart_and_short_ones_refused() {
        let read = |kind: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            ControlRequest::from_bytes(&bytes)
        };
        let function = Some(Function::AbortTask(0));
        assert_eq!(read(0, 24), Some(ControlRequest::TaskManagement(function, None)));
        assert_eq!(read(1, 16), Some(ControlRequest::AsyncNotification));
        for (kind, len) in [(0, 23), (1, 15), (2, 4), (3, 24)] {
            assert_eq!(read(kind, len), None);
        }
        assert_eq!(ControlRequest::from_bytes(&[0, 0, 0]), None);
    }
}
