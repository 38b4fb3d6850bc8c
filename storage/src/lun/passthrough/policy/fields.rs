//! Fields that decide whether a command is allowed: what a preset lets pass of a command that can
//! also do more than the preset is for.

use crate::scsi::cdb::Cdb;
use crate::scsi::command::{Command, device_type};
use crate::scsi::sense::Sense;

/// What is allowed of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// All.
    Any,
    /// LOG SENSE that neither saves parameters nor looks at those that changed.
    LogSense,
    /// RECEIVE DIAGNOSTIC RESULTS of the list of pages.
    SupportedDiagnosticPages,
    /// SEND DIAGNOSTIC of the default self-test.
    DefaultSelfTest,
    /// WRITE BUFFER of the echo buffer.
    WriteEchoBuffer,
    /// READ BUFFER of the echo buffer and of descriptors.
    ReadEchoBuffer,
    /// MODE SELECT that saves nothing.
    ModeSelect,
    /// PERSISTENT RESERVE OUT for the initiator itself.
    OwnRegistration,
    /// ERASE of a gap and not of the rest of the tape.
    ShortErase,
    /// SEND KEY but the region, which a drive lets be set a few times in its life.
    SendKey,
}

impl Fields {
    /// What a preset that allows `command` lets pass of it on a device of `device_type`.
    pub(super) fn of(command: &Command, device_type: u8) -> Fields {
        match command.opcode {
            0x15 | 0x55 => Fields::ModeSelect,
            0x1c if device_type != device_type::ENCLOSURE => Fields::SupportedDiagnosticPages,
            0x1d => Fields::DefaultSelfTest,
            0x3b => Fields::WriteEchoBuffer,
            0x3c | 0x9b => Fields::ReadEchoBuffer,
            0x4d => Fields::LogSense,
            0x5f => Fields::OwnRegistration,
            0x19 | 0x93 if device_type == device_type::TAPE => Fields::ShortErase,
            0xa3 if device_type == device_type::CD => Fields::SendKey,
            _ => Fields::Any,
        }
    }

    /// Whether what passes modifies nothing, though the command can.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Fields::WriteEchoBuffer | Fields::DefaultSelfTest | Fields::SendKey)
    }

    /// Whether what it stops modifies something, though the command usually does not.
    pub(super) fn protects(self) -> bool {
        self == Fields::LogSense
    }

    /// What passes, for a person; `None` for all.
    pub(super) fn limit(self) -> Option<&'static str> {
        Some(match self {
            Fields::Any => return None,
            Fields::LogSense => "without SP and PPC",
            Fields::SupportedDiagnosticPages => "of page 0 with PCV",
            Fields::DefaultSelfTest => "of the default self-test",
            Fields::WriteEchoBuffer => "of the echo buffer",
            Fields::ReadEchoBuffer => "of the echo buffer and of descriptors",
            Fields::ModeSelect => "without SP",
            Fields::OwnRegistration => "without SPEC_I_PT",
            Fields::ShortErase => "without LONG",
            Fields::SendKey => "but for the region",
        })
    }

    /// Whether MODE decides, which REPORT SUPPORTED OPERATION CODES may take for a service action.
    pub(super) fn is_of_mode(self) -> bool {
        matches!(self, Fields::WriteEchoBuffer | Fields::ReadEchoBuffer)
    }

    /// Whether a field of a parameter list decides.
    pub(super) fn has_parameters(self) -> bool {
        self == Fields::OwnRegistration
    }

    pub(super) fn check(self, cdb: &Cdb) -> Result<(), Sense> {
        match self {
            Fields::Any | Fields::OwnRegistration => Ok(()),
            // SP and PPC; the latter's place is that of PCR in LOG SELECT.
            Fields::LogSense => clear(cdb, 0).and(clear(cdb, 1)),
            Fields::SupportedDiagnosticPages => supported_diagnostic_pages(cdb),
            Fields::DefaultSelfTest => default_self_test(cdb),
            Fields::WriteEchoBuffer => mode(cdb, &[WRITE_ECHO]),
            Fields::ReadEchoBuffer => mode(cdb, &[DESCRIPTOR, READ_ECHO, ECHO_DESCRIPTOR]),
            Fields::ModeSelect | Fields::ShortErase => clear(cdb, 0),
            Fields::SendKey => send_key(cdb),
        }
    }

    pub(super) fn check_parameters(self, parameters: &[u8]) -> Result<(), Sense> {
        /// SPC-6, basic PERSISTENT RESERVE OUT parameter list.
        const SPEC_I_PT: (usize, u8) = (20, 3);
        let (offset, bit) = SPEC_I_PT;
        let set = parameters.get(offset).is_some_and(|byte| byte >> bit & 1 == 1);
        if self == Fields::OwnRegistration && set {
            return Err(Sense::invalid_parameter(20, Some(bit)));
        }
        Ok(())
    }
}

/// SPC-6, values of MODE of WRITE BUFFER and READ BUFFER.
const DESCRIPTOR: u8 = 0x03;
const WRITE_ECHO: u8 = 0x0a;
const READ_ECHO: u8 = 0x0a;
const ECHO_DESCRIPTOR: u8 = 0x0b;

/// Bit `bit` of byte 1 must be 0.
fn clear(cdb: &Cdb, bit: u8) -> Result<(), Sense> {
    if cdb.bit(1, bit) { Err(Sense::invalid_field(1, Some(bit))) } else { Ok(()) }
}

/// Bit `bit` of byte 1 must be 1.
fn set(cdb: &Cdb, bit: u8) -> Result<(), Sense> {
    if cdb.bit(1, bit) { Ok(()) } else { Err(Sense::invalid_field(1, Some(bit))) }
}

/// MODE must be one of `allowed`.
fn mode(cdb: &Cdb, allowed: &[u8]) -> Result<(), Sense> {
    if allowed.contains(&(cdb.u8(1) & 0x1f)) {
        Ok(())
    } else {
        Err(Sense::invalid_field(1, Some(4)))
    }
}

/// MMC-6, SEND KEY command.
fn send_key(cdb: &Cdb) -> Result<(), Sense> {
    const REGION: u8 = 0x06;
    let format = cdb.u8(10) & 0x3f;
    if format == REGION { Err(Sense::invalid_field(10, Some(5))) } else { Ok(()) }
}

/// Without PCV the page is that of the last SEND DIAGNOSTIC, whoever sent it.
fn supported_diagnostic_pages(cdb: &Cdb) -> Result<(), Sense> {
    const PCV: u8 = 0;
    set(cdb, PCV)?;
    if cdb.u8(2) == 0 { Ok(()) } else { Err(Sense::invalid_field(2, None)) }
}

/// SELFTEST, and none of SELF-TEST CODE, DEVOFFL, UNITOFFL and parameters (SPC-6, SEND
/// DIAGNOSTIC).
fn default_self_test(cdb: &Cdb) -> Result<(), Sense> {
    const SELF_TEST: u8 = 2;
    if cdb.u8(1) >> 5 != 0 {
        return Err(Sense::invalid_field(1, Some(7)));
    }
    set(cdb, SELF_TEST)?;
    clear(cdb, 1)?;
    clear(cdb, 0)?;
    if cdb.u16(3) == 0 { Ok(()) } else { Err(Sense::invalid_field(3, None)) }
}
