//! Status codes (SAM-6, Status).

/// A status byte. Values that are not named here go through unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// The command completed without error.
    pub const GOOD: Status = Status(0x00);
    /// The command failed, or there is something to tell; sense data says what.
    pub const CHECK_CONDITION: Status = Status(0x02);
    /// The command completed, and something else is true that it asked about (PRE-FETCH).
    pub const CONDITION_MET: Status = Status(0x04);
    /// The logical unit cannot take a command now; try again.
    pub const BUSY: Status = Status(0x08);
    /// The command conflicts with a reservation.
    pub const RESERVATION_CONFLICT: Status = Status(0x18);
    /// The logical unit's queue is full.
    pub const TASK_SET_FULL: Status = Status(0x28);
    /// The task was aborted by another initiator.
    pub const TASK_ABORTED: Status = Status(0x40);
}
