//! What an event of the kernel tells about a logical unit.
//!
//! The kernel turns unit attentions that its SCSI layer sees, on whoever's command, into events of
//! the SCSI device (`scsi_report_sense` and `scsi_evt_emit` of Linux's drivers/scsi): `SDEV_UA` for
//! 3F/03, 2A/09, 38/07, 2A/01, 3F/0E, 2A/06 and 29/xx; 2A/03 to 2A/05 make none. `SDEV_MEDIA_CHANGE` and
//! `DISK_MEDIA_CHANGE` tell of media, `RESIZE` of a block device whose size the kernel has read
//! anew.
//!
//! Seen with scsi_debug on Linux 6.1 and 6.12 alike:
//!
//! | what happens | events |
//! |---|---|
//! | a SG_IO command is told 2A/09, 3F/0E or 29/xx | `SDEV_UA` of the device, so all that our own commands meet comes here as well |
//! | the device's `rescan`, with another capacity | `RESIZE` of the block node; the kernel does not rescan because of 2A/09 |
//! | `max_sectors_kb`, `queue_depth` or `state` written | none |
//! | `delete` written | `remove` of the sg node, the block node and last the device; its folder is gone by then |
//! | the host's `scan` finds a device | `add` of the device, then its sg node, then its block node, which has another name while somebody has the old one open; `bind` comes last. 29/xx for what the scan met comes after the `add` on 6.1 and before it on 6.12, there with `/H:C:T:L` as its whole path |

use crate::host::uevent::Uevent;
use crate::scsi::sense::SenseCode;

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The device told somebody of this.
    Attention(SenseCode),
    /// A map of the device mapper uses a path again.
    PathBack,
    /// A look at sysfs shows more.
    Look,
    /// The host has given the device up.
    Removed,
    /// The host has a device, or a node of it.
    Added,
}

impl Notice {
    pub(super) fn of(event: &Uevent) -> Option<Notice> {
        match event.action() {
            "remove" if is_whole(event) => Some(Notice::Removed),
            "add" | "bind" => Some(Notice::Added),
            "change" => Notice::of_change(event),
            // A driver that lets the device go takes its node along.
            "offline" | "online" | "unbind" => Some(Notice::Look),
            _ => None,
        }
    }

    fn of_change(event: &Uevent) -> Option<Notice> {
        let has = |key| event.get(key) == Some("1");
        if let Some(code) = event.get("SDEV_UA").and_then(attention) {
            return Some(Notice::Attention(code));
        }
        if has("SDEV_MEDIA_CHANGE") || has("DISK_MEDIA_CHANGE") {
            return Some(Notice::Attention(SenseCode::NOT_READY_TO_READY_CHANGE));
        }
        if event.get("DM_ACTION") == Some("PATH_REINSTATED") {
            return Some(Notice::PathBack);
        }
        has("RESIZE").then_some(Notice::Look)
    }
}

/// The device itself, or the node by which its commands go, and not a part of either.
fn is_whole(event: &Uevent) -> bool {
    match event.subsystem() {
        "scsi" => event.get("DEVTYPE") == Some("scsi_device"),
        "block" => event.get("DEVTYPE") == Some("disk"),
        _ => false,
    }
}

fn attention(name: &str) -> Option<SenseCode> {
    Some(match name {
        "INQUIRY_DATA_HAS_CHANGED" => SenseCode::INQUIRY_DATA_HAS_CHANGED,
        "CAPACITY_DATA_HAS_CHANGED" => SenseCode::CAPACITY_DATA_HAS_CHANGED,
        "THIN_PROVISIONING_SOFT_THRESHOLD_REACHED" => {
            SenseCode::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED
        }
        "MODE_PARAMETERS_CHANGED" => SenseCode::MODE_PARAMETERS_CHANGED,
        "REPORTED_LUNS_DATA_HAS_CHANGED" => SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED,
        "ASYMMETRIC_ACCESS_STATE_CHANGED" => SenseCode::ASYMMETRIC_ACCESS_STATE_CHANGED,
        "POWER_ON_RESET_OCCURRED" => SenseCode::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
        _ => return None,
    })
}
