//! What a real host does to a device that is passed through, and what its initiator hears of it.
//! There is no guest: the initiator is played.
//!
//! The test must be root's, and may load modules.

use std::io::{Error, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::lun::spec::{LunSpec, PassthroughSpec};
use storage::lun::{self, LogicalUnit, UnitEvents};
use storage::scsi::sense::SenseCode;
use storage::testing::{FakeDevice, FakeHost};
use tests::host;
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;
use tests::scsi::tcmu::{Tcmu, played_by};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Attention(u8, u8),
    Changed(u8, u8),
    Present(bool),
}

use Told::{Attention, Changed, Present};

/// The initiator, who is not told what it sees already.
#[derive(Debug)]
struct Initiator {
    told: Mutex<Vec<Told>>,
    sees: Mutex<bool>,
}

impl UnitEvents for Initiator {
    fn attention(&self, code: SenseCode) {
        self.hear(Attention(code.asc, code.ascq));
    }

    fn parameters_changed(&self, code: SenseCode) {
        self.hear(Changed(code.asc, code.ascq));
    }

    fn set_present(&self, present: bool) {
        if std::mem::replace(&mut *self.sees.lock().unwrap(), present) != present {
            self.hear(Present(present));
        }
    }
}

impl Initiator {
    fn hear(&self, told: Told) {
        eprintln!("the initiator hears {told:x?}");
        self.told.lock().unwrap().push(told);
    }

    /// Waits until it has heard all of `wanted`, among other things, and forgets everything.
    fn await_told(&self, wanted: &[Told]) -> Result<()> {
        let what = format!("{wanted:x?}");
        host::await_some(&what, || {
            let mut told = self.told.lock().unwrap();
            let all = wanted.iter().all(|it| told.contains(it));
            Ok(all.then(|| told.clear()))
        })
    }

    fn sees(&self) -> bool {
        *self.sees.lock().unwrap()
    }
}

/// Long enough to be heard of, were there anything to hear.
fn a_while() {
    std::thread::sleep(Duration::from_secs(8));
}

fn open(path: &Path) -> Result<(Arc<dyn LogicalUnit>, Arc<Initiator>)> {
    let mut spec = PassthroughSpec::new(path);
    spec.path_timeout = Duration::from_secs(2);
    let unit = lun::open(&LunSpec::Passthrough(spec)).map_err(Error::other)?;
    let initiator = Arc::new(Initiator { told: Mutex::default(), sees: Mutex::new(true) });
    unit.attached(Arc::clone(&initiator) as Arc<dyn UnitEvents>);
    Ok((unit, initiator))
}

const BACK: [Told; 2] = [Attention(0x29, 0x01), Present(true)];

#[test]
fn what_scsi_debug_does_is_heard() -> Result<()> {
    let debug = ScsiDebug::new(1, &["dev_size_mb=8"])?;
    let device = debug.device();
    let (unit, initiator) = open(&device.block())?;

    debug.set("virtual_gb", "1")?;
    device.set("rescan", "1")?;
    initiator.await_told(&[Attention(0x2a, 0x09), Changed(0x2a, 0x09)])?;

    device.set_queue("max_sectors_kb", "64")?;
    initiator.await_told(&[Attention(0x3f, 0x03), Changed(0x2a, 0x01)])?;
    assert_eq!(unit.max_transfer(), 64 << 10);

    let sg = device.generic().display().to_string();
    host::run("sg_reset", &["-d", &sg])?;
    // Whose command uses the unit attention up.
    let _ = host::run("sg_turs", &[&sg]);
    initiator.await_told(&[Attention(0x29, 0x00)])?;

    device.set("state", "offline\n")?;
    initiator.await_told(&[Present(false)])?;
    device.set("state", "running\n")?;
    initiator.await_told(&BACK)?;

    device.delete()?;
    initiator.await_told(&[Present(false)])?;
    debug.scan()?;
    initiator.await_told(&BACK)?;
    Ok(())
}

#[test]
fn a_lun_that_is_used_again_for_another_device_stays_out_of_sight() -> Result<()> {
    let ours = Storage::memory("ours", 8 << 20)?;
    let theirs = Storage::memory("theirs", 8 << 20)?;
    let port = Port::loopback("naa.5001405000000021", "naa.50014050000000b1", &[&ours])?;
    let (_unit, initiator) = open(&port.devices()?[0].block())?;

    port.detach(0)?;
    initiator.await_told(&[Present(false)])?;
    port.attach(0, &theirs)?;
    let device = &port.devices()?[0];
    a_while();
    assert!(!initiator.sees());
    // Nobody has taken it.
    host::run("dd", &[&format!("of={}", device.block().display()), "if=/dev/zero", "count=1"])?;

    port.detach(0)?;
    port.attach(0, &ours)?;
    initiator.await_told(&BACK)
}

#[test]
fn a_device_that_turns_into_another_one_goes_out_of_sight() -> Result<()> {
    let fake = Arc::new(FakeHost::new(FakeDevice::default()));
    let tcmu = Tcmu::new("turning", 1 << 20, played_by(Arc::clone(&fake)))?;
    let port = Port::loopback("naa.5001405000000022", "naa.50014050000000b2", &[tcmu.storage()])?;
    let device = &port.devices()?[0];
    let (_unit, initiator) = open(&device.block())?;
    let own = fake.device().vpd.get(&0x83).cloned().unwrap_or_default();

    let turn_into = |page: &[u8]| {
        let mut device = fake.device();
        device.set_vpd(page);
        device.attentions.push_back(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    };
    let sg = device.generic().display().to_string();
    turn_into(&[0, 0x83, 0, 12, 1, 3, 0, 8, 0x50, 9, 9, 9, 9, 9, 9, 9]);
    let _ = host::run("sg_turs", &[&sg]);
    initiator.await_told(&[Present(false)])?;
    turn_into(&own);
    initiator.await_told(&BACK)
}
