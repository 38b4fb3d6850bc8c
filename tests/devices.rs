//! SCSI devices that a test plays, passed through to a guest.
//!
//! The test must be root's, and may load modules.

use std::io::Result;
use std::sync::Arc;

use storage::testing::{FakeDevice, FakeHost};
use tests::host;
use tests::scsi::lio::Port;
use tests::scsi::tcmu::{Tcmu, played_by};

#[test]
fn a_device_is_what_is_played() -> Result<()> {
    let fake = Arc::new(FakeHost::new(FakeDevice::default()));
    let tcmu = Tcmu::new("played", 1 << 20, played_by(Arc::clone(&fake)))?;
    let port = Port::loopback("naa.5001405000000011", "naa.50014050000000a1", &[tcmu.storage()])?;
    let device = &port.devices()?[0];
    let seen = host::run("sg_inq", &[&device.generic().display().to_string()])?;
    assert!(seen.contains("FAKE DISK"), "{seen}");
    let seen = host::run("sg_vpd", &[&device.generic().display().to_string()])?;
    assert!(!seen.contains("bl"), "{seen}");
    let block = device.block().display().to_string();
    host::run(
        "dd",
        &["if=/dev/urandom", &format!("of={block}"), "bs=4k", "count=16", "oflag=direct"],
    )?;
    assert_ne!(fake.device().store[..65536], [0; 65536]);
    assert_eq!(fake.device().store[65536..], [0; (1 << 20) - 65536]);
    assert!(tcmu.take_seen().iter().any(|cdb| cdb[0] == 0x2a));
    Ok(())
}
