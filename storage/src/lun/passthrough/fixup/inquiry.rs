//! Standard INQUIRY data (SPC-6): an initiator asks for the VPD pages, and is promised nothing
//! that it may not do.

use super::{Context, page_list};

/// VERSION of SPC-2: an initiator of a device before it asks for no VPD pages.
const VERSION_SPC_2: u8 = 4;

/// Raises the version where there are pages of ours, and takes promises back.
pub(super) fn edit(data: &mut [u8], context: &Context<'_>) {
    let raised = !page_list::added(context).is_empty();
    if let Some(version) = data.get_mut(2)
        && raised
        && *version & 0x07 < VERSION_SPC_2
    {
        *version = VERSION_SPC_2;
        if let Some(format) = data.get_mut(3) {
            const FORMAT: u8 = 0x0f;
            const FORMAT_OF_SCSI_2: u8 = 2;
            *format = *format & !FORMAT | FORMAT_OF_SCSI_2;
        }
    }
    if let Some(flags) = data.get_mut(5) {
        *flags &= !broken_promises(context);
    }
}

/// The bits of byte 5 that promise what is not allowed.
fn broken_promises(context: &Context<'_>) -> u8 {
    const THIRD_PARTY_COPY: u8 = 0x08;
    const IMPLICIT: u8 = 0x10;
    const EXPLICIT: u8 = 0x20;
    let promises = context.promises;
    let alua = match (promises.report_target_port_groups, promises.set_target_port_groups) {
        (false, _) => IMPLICIT | EXPLICIT,
        (true, false) => EXPLICIT,
        (true, true) => 0,
    };
    if promises.third_party_copy { alua } else { alua | THIRD_PARTY_COPY }
}
