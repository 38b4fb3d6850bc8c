//! PERSISTENT RESERVE IN: what the device says of several nexuses, told of one (SPC-6, PERSISTENT
//! RESERVE IN command).

use std::io;
use std::time::Duration;

use super::{MOST_ATTENTIONS, Multipath, Outcome, Reservations, again, attention_of, sent};
use crate::host::{Completion, Data, Request, whole};
use crate::scsi::status::Status;
use crate::scsi::wire::{put_u32, u16_at, u32_at, u64_at};

/// READ KEYS
pub(super) const KEYS: u8 = 0x00;
/// READ RESERVATION
pub(super) const RESERVATION: u8 = 0x01;
/// REPORT CAPABILITIES
const CAPABILITIES: u8 = 0x02;
/// READ FULL STATUS
pub(super) const FULL_STATUS: u8 = 0x03;

/// Bytes before the lists of READ KEYS and READ FULL STATUS: PRGENERATION, ADDITIONAL LENGTH.
const HEADER: usize = 8;
/// What is asked for at first, in bytes; qemu-pr-helper carries no more.
const USUAL: u16 = 8192;

/// Parameter data, or how the command ended otherwise.
type Told = io::Result<Result<Vec<u8>, Completion>>;

impl Multipath {
    /// Carries out PERSISTENT RESERVE IN.
    pub(super) fn report(&self, mut request: Request<'_>) -> io::Result<Completion> {
        let action = request.cdb.get(1).copied().unwrap_or(0) & 0x1f;
        let mut reservations = self.lock();
        let edit: fn(&[u8], &Reservations) -> Vec<u8> = match action {
            KEYS => fold_keys,
            FULL_STATUS => fold_full_status,
            CAPABILITIES => own_capabilities,
            _ => return by_any(&reservations, &mut request),
        };
        if reservations.known.is_in_doubt() {
            self.learn(&mut reservations, request.timeout);
        }
        Ok(match self.read_all(&reservations, action, request.timeout)? {
            Ok(data) => answer(&mut request, &edit(&data, &reservations)),
            Err(completion) => completion,
        })
    }

    /// The whole parameter data of a service action, by the first path that tells it.
    pub(super) fn read_all(
        &self,
        reservations: &Reservations,
        action: u8,
        timeout: Duration,
    ) -> Told {
        let mut last = Err(io::Error::from_raw_os_error(libc::ENODEV));
        for path in reservations.known.by_preference() {
            let Some(path) = reservations.paths.get(path) else { continue };
            let mut told = self.read_some(path, action, USUAL, timeout);
            if let Ok(Ok(data)) = &told
                && let Some(more) = missing(action, data)
            {
                told = self.read_some(path, action, more, timeout);
            }
            match told {
                Ok(Err(completion)) if completion.host_status.0 != 0 => last = Ok(Err(completion)),
                Err(error) => last = Err(error),
                told => return told,
            }
        }
        last
    }

    fn read_some(&self, path: &super::Path, action: u8, len: u16, timeout: Duration) -> Told {
        let [high, low] = len.to_be_bytes();
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, high, low, 0];
        for _ in 0..MOST_ATTENTIONS {
            let (completion, data) = whole::receive(&*path.host, &cdb, len.into(), timeout)?;
            if attention_of(&completion).is_some() {
                self.keep(completion.sense);
            } else if completion.status == Status::GOOD && completion.host_status.0 == 0 {
                return Ok(Ok(data));
            } else {
                return Ok(Err(completion));
            }
        }
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// Sends a request that changes nothing by the first path that carries it.
fn by_any(reservations: &Reservations, request: &mut Request<'_>) -> io::Result<Completion> {
    let mut last = Err(io::Error::from_raw_os_error(libc::ENODEV));
    for path in reservations.known.by_preference() {
        let Some(path) = reservations.paths.get(path) else { continue };
        match sent(path.host.execute(again(request))) {
            Outcome::Answered(completion) => return Ok(completion),
            Outcome::NotSent(outcome) | Outcome::Unknown(outcome) => last = outcome,
        }
    }
    last
}

/// The length that it takes to have all, where there is more.
fn missing(action: u8, data: &[u8]) -> Option<u16> {
    if !matches!(action, KEYS | FULL_STATUS) {
        return None;
    }
    let whole = usize::try_from(u32_at(data, 4)).ok()?.checked_add(HEADER)?;
    let len = u16::try_from(whole).unwrap_or(u16::MAX);
    (whole > data.len() && len > USUAL).then_some(len)
}

/// Ends a request with parameter data, cut to its allocation length.
fn answer(request: &mut Request<'_>, data: &[u8]) -> Completion {
    let most = usize::from(u16_at(request.cdb, 7));
    let Data::In(buf) = &mut request.data else { return Completion::default() };
    let moved = buf.write(data.get(..most).unwrap_or(data));
    let resid = i32::try_from(buf.len() - moved).unwrap_or(i32::MAX);
    Completion { resid, ..Completion::default() }
}

/// The list behind the header, as far as it is there.
fn list(data: &[u8]) -> &[u8] {
    let rest = data.get(HEADER..).unwrap_or(&[]);
    let len = usize::try_from(u32_at(data, 4)).unwrap_or(usize::MAX);
    rest.get(..len).unwrap_or(rest)
}

/// The keys of READ KEYS.
pub(super) fn keys(data: &[u8]) -> Vec<u64> {
    list(data).chunks_exact(8).map(|key| u64_at(key, 0)).collect()
}

fn with_list(data: &[u8], list: &[u8]) -> Vec<u8> {
    let mut told = data.get(..HEADER).unwrap_or(data).to_vec();
    put_u32(&mut told, 4, u32::try_from(list.len()).unwrap_or(u32::MAX));
    told.extend_from_slice(list);
    told
}

/// The initiator's key once, however many of its paths have it.
fn fold_keys(data: &[u8], reservations: &Reservations) -> Vec<u8> {
    let known = &reservations.known;
    let own = (0..reservations.paths.len()).filter(|&path| known.is_on(path)).count();
    let mut surplus = own.saturating_sub(1);
    let mut folded = Vec::new();
    for key in keys(data).into_iter().rev() {
        if surplus > 0 && Some(key) == known.key() {
            surplus -= 1;
        } else {
            folded.push(key);
        }
    }
    let list: Vec<u8> = folded.into_iter().rev().flat_map(u64::to_be_bytes).collect();
    with_list(data, &list)
}

/// One descriptor for all paths of the initiator: that of the holder, or else the first.
fn fold_full_status(data: &[u8], reservations: &Reservations) -> Vec<u8> {
    let names: Vec<&str> =
        reservations.paths.iter().filter_map(|path| path.initiator.as_deref()).collect();
    let own = |descriptor: &Descriptor| {
        Some(descriptor.key) == reservations.known.key()
            && names.iter().any(|name| descriptor.is_initiator(name))
    };
    let all = descriptors(data);
    let shown = all.iter().position(|it| own(it) && it.holds);
    let shown = shown.or_else(|| all.iter().position(own));
    let kept = all.iter().enumerate().filter(|(at, it)| !own(it) || Some(*at) == shown);
    let list: Vec<u8> = kept.flat_map(|(_, descriptor)| descriptor.bytes.clone()).collect();
    with_list(data, &list)
}

/// Registering others, and by other ports, is for one nexus only: SIP_C and ATP_C are 0.
fn own_capabilities(data: &[u8], _: &Reservations) -> Vec<u8> {
    const SIP_C_ATP_C: u8 = 0x0c;
    let mut told = data.to_vec();
    if let Some(flags) = told.get_mut(2) {
        *flags &= !SIP_C_ATP_C;
    }
    told
}

/// A registration (SPC-6, READ FULL STATUS service action, Full status descriptor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// RESERVATION KEY
    pub(super) key: u64,
    /// RELATIVE TARGET PORT IDENTIFIER
    pub(super) port: u16,
    /// R_HOLDER
    holds: bool,
    /// TYPE
    kind: u8,
    bytes: Vec<u8>,
}

impl Descriptor {
    /// Whether its nexus holds the reservation, and not all registrants do.
    pub(super) fn holds_alone(&self) -> bool {
        self.holds && !is_of_all_registrants(self.kind)
    }

    /// Whether its TransportID names this port of an initiator (SPC-6, TransportID identifiers).
    pub(super) fn is_initiator(&self, name: &str) -> bool {
        const ISCSI: u8 = 5;
        let id = self.bytes.get(24..).unwrap_or(&[]);
        if id.first().is_some_and(|first| first & 0x0f == ISCSI) {
            let text = id.get(4..).unwrap_or(&[]).split(|&byte| byte == 0).next();
            let text = String::from_utf8_lossy(text.unwrap_or(&[]));
            let device = name.split(",i,").next().unwrap_or(name);
            return text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(device);
        }
        let digits = name.strip_prefix("naa.").unwrap_or(name);
        let Ok(number) = u64::from_str_radix(digits, 16) else { return false };
        let number = number.to_be_bytes();
        // N_PORT_NAME and SAS ADDRESS.
        [8..16, 4..12].into_iter().any(|at| id.get(at).is_some_and(|bytes| bytes == number))
    }
}

/// Write Exclusive and Exclusive Access, All Registrants.
fn is_of_all_registrants(kind: u8) -> bool {
    matches!(kind & 0x0f, 7 | 8)
}

/// The descriptors of READ FULL STATUS. What is cut off ends the list.
pub(super) fn descriptors(data: &[u8]) -> Vec<Descriptor> {
    let mut rest = list(data);
    let mut found = Vec::new();
    while let Some(start) = rest.get(..24) {
        let len = usize::try_from(u32_at(start, 20)).ok().and_then(|len| len.checked_add(24));
        let Some(bytes) = len.and_then(|len| rest.get(..len)) else { break };
        rest = rest.get(bytes.len()..).unwrap_or(&[]);
        found.push(Descriptor {
            key: u64_at(start, 0),
            port: u16_at(start, 18),
            holds: start[12] & 1 != 0,
            kind: start[13],
            bytes: bytes.to_vec(),
        });
    }
    found
}

/// The RELATIVE TARGET PORT IDENTIFIER of the port that was asked (SPC-6, Device Identification
/// VPD page).
pub(super) fn relative_port(page: &[u8]) -> Option<u16> {
    const OF_TARGET_PORT: u8 = 0x14;
    let mut rest = page.get(4..)?;
    while let [_, flags, _, len, after @ ..] = rest {
        let value = after.get(..usize::from(*len))?;
        rest = after.get(usize::from(*len)..)?;
        if flags & 0x3f == OF_TARGET_PORT {
            return Some(u16_at(value, 2));
        }
    }
    None
}
