//! REPORT SUPPORTED OPERATION CODES as the device answers it, made to agree with the policy: what
//! is refused is not supported, and what is answered here is, whatever the device says.

use super::rules::Ruling;
use super::{Policy, Virtual, bare_cdb};
use crate::scsi::cdb::Cdb;
use crate::scsi::opcode::Opcode;
use crate::scsi::supported;
use crate::scsi::wire::{put_u32, u16_at, u32_at};

/// REPORTING OPTIONS: all commands.
const ALL_COMMANDS: u8 = 0b000;
/// REPORTING OPTIONS: one command, whose opcode has no service actions.
const ONE_OPCODE: u8 = 0b001;

impl Policy {
    /// Makes `data`, all that a device answers to the REPORT SUPPORTED OPERATION CODES `cdb`, agree
    /// with the policy. Descriptors that are cut off are left out. Another `cdb` is none of its
    /// business.
    pub fn filter_supported(&self, cdb: &Cdb, data: &mut Vec<u8>) {
        if cdb.opcode() != 0xa3 || cdb.u8(1) & 0x1f != 0x0c {
            return;
        }
        const RCTD: u8 = 7;
        let timeouts = cdb.bit(2, RCTD);
        let (opcode, action) = (cdb.u8(3), cdb.u16(4));
        match cdb.u8(2) & 0x07 {
            ALL_COMMANDS => self.filter_list(timeouts, data),
            ONE_OPCODE => self.filter_one(opcode, None, timeouts, data),
            _ => self.filter_one(opcode, Some(action), timeouts, data),
        }
    }

    fn filter_list(&self, timeouts: bool, data: &mut Vec<u8>) {
        let said = usize::try_from(u32_at(data, 0)).unwrap_or(usize::MAX);
        let list = data.get(4..).unwrap_or(&[]);
        let list = list.get(..said).unwrap_or(list);
        let mut kept = vec![0; 4];
        for descriptor in Descriptors(list) {
            if matches!(self.listing(descriptor), Listing::Device) {
                kept.extend(descriptor);
            }
        }
        for row in self.virtual_rows() {
            kept.extend(supported::descriptor(row, timeouts));
        }
        let len = u32::try_from(kept.len().saturating_sub(4)).unwrap_or(u32::MAX);
        put_u32(&mut kept, 0, len);
        *data = kept;
    }

    fn filter_one(&self, opcode: u8, action: Option<u16>, timeouts: bool, data: &mut Vec<u8>) {
        match self.listing_of(opcode, action) {
            Listing::Device => {}
            Listing::No => *data = supported::one_command(None, timeouts),
            Listing::Virtual(row) => *data = supported::one_command(row, timeouts),
        }
    }

    fn listing(&self, descriptor: &[u8]) -> Listing {
        const SERVACTV: u8 = 0x01;
        let at = |offset: usize| descriptor.get(offset).copied().unwrap_or(0);
        let action = (at(5) & SERVACTV != 0).then(|| u16_at(descriptor, 2));
        self.listing_of(at(0), action)
    }

    /// Who says whether a command is supported: one with a service action or, where the device
    /// gives none, any of the opcode.
    fn listing_of(&self, opcode: u8, action: Option<u16>) -> Listing {
        let slot = self.slot(opcode);
        if slot.is_refused() {
            return Listing::No;
        }
        if action.is_none() && !slot.is_plain() {
            return Listing::Device;
        }
        match slot.rule(action.unwrap_or(0)).ruling {
            Ruling::Refuse => Listing::No,
            Ruling::Virtual(answer) => Listing::Virtual(answer.row()),
            Ruling::Forward(fields) if action.is_some() && fields.is_of_mode() => {
                let allowed = fields.check(&bare_cdb(opcode, action)).is_ok();
                if allowed { Listing::Device } else { Listing::No }
            }
            Ruling::Forward(_) => Listing::Device,
        }
    }

    /// What is answered here, in order of opcode.
    fn virtual_rows(&self) -> impl Iterator<Item = &'static Opcode> {
        let given = Virtual::all().filter(|answer| {
            let (opcode, action) = answer.codes();
            self.slot(opcode).rule(action.unwrap_or(0)).ruling == Ruling::Virtual(*answer)
        });
        given.filter_map(Virtual::row)
    }
}

/// Who says whether a command is supported.
enum Listing {
    /// The device.
    Device,
    /// The policy: it is not.
    No,
    /// The policy: it is, as this row says.
    Virtual(Option<&'static Opcode>),
}

impl Virtual {
    /// The row that tells how it is answered.
    fn row(self) -> Option<&'static Opcode> {
        let (opcode, action) = self.codes();
        Opcode::find(&bare_cdb(opcode, action)).ok()
    }
}

/// The command descriptors of a list (SPC-6, All_commands parameter data format).
struct Descriptors<'a>(&'a [u8]);

impl<'a> Iterator for Descriptors<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        const CTDP: u8 = 0x02;
        const LEN: usize = 8;
        const TIMEOUTS_LEN: usize = 12;
        let has_timeouts = self.0.get(5)? & CTDP != 0;
        let len = if has_timeouts { LEN + TIMEOUTS_LEN } else { LEN };
        let descriptor = self.0.get(..len)?;
        self.0 = self.0.get(len..)?;
        Some(descriptor)
    }
}
