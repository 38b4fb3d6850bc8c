//! Whether there is a KVM for guests of a few instructions.

use std::fs::File;

/// Opens /dev/kvm. Where it cannot be opened, says so, for the caller to skip its test.
///
/// # Panics
/// When it cannot be opened although `VMM_REQUIRE_KVM` is set.
#[must_use]
pub fn is_there() -> bool {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("VMM_REQUIRE_KVM").is_none(), "/dev/kvm: {error}");
            eprintln!("skipped: /dev/kvm: {error}");
            false
        }
    }
}
