//! Derived identities: what a guest and its LUNs are called where the configuration does not say.
//!
//! They depend on the guest's name or UUID, the controller's id, the target and the LUN only:
//! never on the host nor the order of the file, since a guest that starts again elsewhere must
//! find its disks. Once given out, the derivation cannot change.

use storage::lun::spec::Naa;
use uuid::Uuid;

/// The namespace of every derived identity (RFC 9562 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0xa8b51bd5_2ccd_4afe_850d_7596849c673d);

/// T10 VENDOR IDENTIFICATION of a LUN.
pub(super) const VENDOR: &str = "VMM";
/// PRODUCT IDENTIFICATION of a LUN.
pub(super) const PRODUCT: &str = "VIRTUAL DISK";
/// PRODUCT REVISION LEVEL of a LUN.
pub(super) const REVISION: &str =
    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// The UUID of the guest of that name.
pub(super) fn guest_uuid(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

/// The NAA designator of a LUN.
pub(super) fn wwn(guest: &Uuid, controller: &str, target: u8, lun: u16) -> Naa {
    let derived = Uuid::new_v5(guest, format!("{controller}/{target}/{lun}").as_bytes());
    // The lower half: its only fixed bits, the variant, are among the four that NAA 3 replaces.
    Naa::locally_assigned(derived.as_u64_pair().1)
}

/// The serial number of a LUN: the digits of its NAA designator.
pub(super) fn serial(wwn: &Naa) -> String {
    wwn.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_identities_never_change() {
        let guest = guest_uuid("guest1");
        assert_eq!(guest.to_string(), "046979aa-30f0-5b9c-a064-41ef3b9210c7");
        let first = wwn(&guest, "scsi0", 0, 0);
        assert_eq!(first.to_string(), "naa.3e2f3c5c7e1fa9f9");
        assert_eq!(serial(&first), "3e2f3c5c7e1fa9f9");
        assert_eq!(wwn(&guest, "scsi1", 255, 16383).to_string(), "naa.33341c38f28dec8e");
    }

    #[test]
    fn each_part_of_an_address_counts() {
        let names = [
            wwn(&guest_uuid("a"), "scsi0", 0, 0),
            wwn(&guest_uuid("b"), "scsi0", 0, 0),
            wwn(&guest_uuid("a"), "scsi1", 0, 0),
            wwn(&guest_uuid("a"), "scsi0", 1, 0),
            wwn(&guest_uuid("a"), "scsi0", 0, 1),
            wwn(&guest_uuid("a"), "scsi0", 1, 11),
            wwn(&guest_uuid("a"), "scsi0", 11, 1),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
