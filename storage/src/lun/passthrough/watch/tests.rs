//! A logical unit whose host changes, over a made-up sysfs and by a clock that stands still.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::watcher::Ears;
use super::*;
use crate::buffer::lend;
use crate::host::sysfs::testing::Tree;
use crate::host::sysfs::{Hctl, Ports};
use crate::host::uevent::{Event, Uevent};
use crate::host::{Data, HostStatus, Request};
use crate::lun::passthrough::presence::Sight;
use crate::testing::{FakeDevice, FakeHost, Outcome};

const SECOND: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(5);
const PATH_TIMEOUT: Duration = Duration::from_secs(30);
const PATH: &str = "/dev/disk/by-id/scsi-x";
const SCSI: &str = "pci/host2/target2:0:0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Attention(u8, u8),
    Changed(u8, u8),
    Present(bool),
}

use Told::{Attention, Changed, Present};

/// An initiator's ears; what does not change its sight is not told to it.
#[derive(Debug)]
struct Initiator {
    told: Mutex<Vec<Told>>,
    sees: Mutex<bool>,
}

impl UnitEvents for Initiator {
    fn attention(&self, code: SenseCode) {
        self.told.lock().unwrap().push(Attention(code.asc, code.ascq));
    }

    fn parameters_changed(&self, code: SenseCode) {
        self.told.lock().unwrap().push(Changed(code.asc, code.ascq));
    }

    fn set_present(&self, present: bool) {
        if std::mem::replace(&mut *self.sees.lock().unwrap(), present) != present {
            self.told.lock().unwrap().push(Present(present));
        }
    }
}

#[derive(Debug)]
struct Unit {
    watch: Watch,
    host: RwLock<Arc<dyn ScsiHost>>,
    initiator: Arc<Initiator>,
    limits: Mutex<HostLimits>,
    looks: AtomicUsize,
    refreshed: AtomicUsize,
    /// What is to be found by a path.
    nodes: Mutex<HashMap<PathBuf, (Arc<FakeHost>, Place)>>,
    tried: Mutex<Vec<PathBuf>>,
}

impl Watched for Unit {
    fn name(&self) -> String {
        "0-0".into()
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn host(&self) -> Arc<dyn ScsiHost> {
        Arc::clone(&self.host.read().unwrap())
    }

    fn set_host(&self, host: Arc<dyn ScsiHost>) {
        *self.host.write().unwrap() = host;
    }

    /// Asked once for each look, to say whether it is present.
    fn events(&self) -> Option<Arc<dyn UnitEvents>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(&self.initiator) as Arc<dyn UnitEvents>)
    }

    fn limits(&self) -> HostLimits {
        *self.limits.lock().unwrap()
    }

    fn refresh(&self, host: &dyn ScsiHost) -> Result<(), String> {
        send(host, 0x00)?;
        *self.limits.lock().unwrap() = host.limits().map_err(|error| error.to_string())?;
        self.refreshed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn connect(&self, path: &Path) -> Result<Connection, OpenError> {
        self.tried.lock().unwrap().push(path.into());
        let found = self.nodes.lock().unwrap().get(path).cloned();
        let error = || OpenError::Open(std::io::Error::from_raw_os_error(libc::ENOENT));
        found.map(|(host, place)| Connection { host, place }).ok_or_else(error)
    }
}

fn send(host: &dyn ScsiHost, opcode: u8) -> Result<(), String> {
    let cdb = [opcode, 0, 0, 0, 0, 0];
    let end =
        lend(&mut [], |_| host.execute(Request { cdb: &cdb, data: Data::None, timeout: SECOND }));
    end.map(drop).map_err(|error| error.to_string())
}

struct Rig {
    tree: Tree,
    clock: Clock,
    watcher: Arc<Watcher>,
    unit: Arc<Unit>,
    host: Arc<FakeHost>,
}

impl Rig {
    fn new() -> Rig {
        Rig::with_patience(Pin::PATIENCE)
    }

    fn with_patience(patience: Duration) -> Rig {
        let tree = Tree::new();
        let folder = tree.device(SCSI, "2:0:0:7");
        tree.disk(&folder, "sda", "8:0");
        tree.file(&format!("{folder}/block/sda/size"), "2048");
        let (clock, watcher) = (Clock::stopped(), Arc::new(Watcher::idle().unwrap()));
        let (unit, host) = unit(place(&tree, "2:0:0:7"), &clock, patience);
        watcher.watch(&(Arc::clone(&unit) as Arc<dyn Watched>));
        let rig = Rig { tree, clock, watcher, unit, host };
        rig.pass(Duration::ZERO);
        assert_eq!(rig.told(), []);
        rig.host.take_sent();
        rig
    }

    /// Lets time pass, and then everything come to rest.
    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.hear(&[]);
    }

    fn hear(&self, events: &[Event]) {
        self.watcher.turn(self.clock.now(), events);
        self.unit.watch.errands.settle();
        self.watcher.turn(self.clock.now(), &[]);
        self.unit.watch.errands.settle();
    }

    /// An event of the device, or of its part `below`.
    fn event(&self, action: &str, subsystem: &str, below: &str, field: &str) {
        self.hear(&[event(action, subsystem, &format!("{SCSI}/2:0:0:7{below}"), field)]);
    }

    fn removed(&self) {
        self.tree.remove("bus/scsi/devices/2:0:0:7");
        self.tree.remove(&format!("devices/{SCSI}/2:0:0:7"));
        self.event("remove", "scsi", "", "DEVTYPE=scsi_device");
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.unit.initiator.told.lock().unwrap())
    }

    fn admit(&self) -> Result<(), Refusal> {
        self.unit.watch.admit(|| false)
    }

    /// The block node of the device in `folder`.
    fn disk(&self, folder: &str, name: &str, number: &str) {
        let disk = self.tree.disk(folder, name, number);
        self.tree.file(&format!("{disk}/size"), "2048");
    }

    fn set(&self, attribute: &str, value: &str) {
        self.tree.file(&format!("devices/{SCSI}/2:0:0:7/{attribute}"), value);
    }

    fn opcodes(&self) -> Vec<u8> {
        self.host.take_cdbs().iter().map(|cdb| cdb[0]).collect()
    }

    /// What is at `path` from now on.
    fn node(&self, path: &str, device: FakeDevice, place: Place) -> Arc<FakeHost> {
        let host = Arc::new(FakeHost::new(device));
        self.unit.nodes.lock().unwrap().insert(path.into(), (Arc::clone(&host), place));
        host
    }

    fn tried(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.unit.tried.lock().unwrap())
    }
}

fn unit(place: Place, clock: &Clock, patience: Duration) -> (Arc<Unit>, Arc<FakeHost>) {
    let host = Arc::new(FakeHost::default());
    let mut spec = PassthroughSpec::new(Path::new(PATH));
    spec.path_timeout = PATH_TIMEOUT;
    let pin = Pin::new(None, host.as_ref()).unwrap().with_patience(patience);
    let watch = Watch::new(&spec, pin, place, true).with_clock(clock.clone());
    let unit = Unit {
        watch,
        host: RwLock::new(Arc::clone(&host) as Arc<dyn ScsiHost>),
        initiator: Arc::new(Initiator { told: Mutex::default(), sees: Mutex::new(true) }),
        limits: Mutex::new(FakeDevice::default().limits),
        looks: AtomicUsize::new(0),
        refreshed: AtomicUsize::new(0),
        nodes: Mutex::default(),
        tried: Mutex::default(),
    };
    (Arc::new(unit), host)
}

fn place(tree: &Tree, address: &str) -> Place {
    let device = tree.sysfs().device(address.parse().unwrap()).unwrap();
    Place { block: device.block(), device: Some(device), ports: Ports::default() }
}

fn event(action: &str, subsystem: &str, path: &str, field: &str) -> Event {
    let text = format!(
        "{action}@/devices/{path}\0ACTION={action}\0DEVPATH=/devices/{path}\0\
         SUBSYSTEM={subsystem}\0{field}\0"
    );
    Event::Device(Uevent::parse(text.as_bytes()).unwrap())
}

fn other() -> FakeDevice {
    let mut device = FakeDevice::default();
    device.set_vpd(&[0, 0x83, 0, 12, 1, 3, 0, 8, 0x50, 9, 9, 9, 9, 9, 9, 9]);
    device
}

/// Waits for what another thread is about to do.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_reaches_a_device_that_took_the_place_of_ours() {
    let rig = Rig::new();
    assert_eq!(rig.admit(), Ok(()));
    *rig.host.device() = other();
    rig.unit.watch.device_attention(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    thread::scope(|scope| {
        let load: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| rig.admit().map(|()| send(rig.unit.host().as_ref(), 0x2a))))
            .collect();
        for command in load {
            assert_eq!(command.join().unwrap(), Err(Refusal::Closed));
        }
    });
    assert!(rig.opcodes().iter().all(|&opcode| opcode == 0x12));
    assert_eq!(rig.told(), [Present(false)]);
    rig.pass(ROUND);
    assert_eq!(rig.admit(), Err(Refusal::Closed));
    *rig.host.device() = FakeDevice::default();
    rig.pass(ROUND);
    assert_eq!(rig.told(), [Attention(0x29, 0x01), Present(true)]);
    assert_eq!(rig.admit(), Ok(()));
    assert_eq!(rig.unit.refreshed.load(Ordering::SeqCst), 1, "it is examined again");
}

#[test]
fn commands_wait_for_one_check_and_go_on() {
    let rig = Rig::with_patience(Duration::from_secs(3600));
    let (outcome, hold) = Outcome::stuck();
    rig.host.on(0x12, outcome);
    rig.unit.watch.device_attention(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    thread::scope(|scope| {
        let load: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.admit())).collect();
        hold.wait_for_arrival();
        assert_eq!(rig.unit.watch.admit(|| true), Err(Refusal::Aborted));
        rig.watcher.turn(rig.clock.now() + ROUND, &[]);
        assert!(load.iter().all(|command| !command.is_finished()));
        hold.release();
        load.into_iter().for_each(|command| assert_eq!(command.join().unwrap(), Ok(())));
    });
    rig.unit.watch.errands.settle();
    assert_eq!(rig.opcodes(), [0x12]);
    assert_eq!(rig.told(), []);
}

#[test]
fn a_check_without_an_answer_lets_nothing_through_and_is_tried_again() {
    let rig = Rig::with_patience(Duration::from_millis(20));
    rig.host.on(0x12, Outcome::host(HostStatus::TRANSPORT_DISRUPTED));
    rig.unit.watch.path_lost();
    rig.unit.watch.errands.settle();
    rig.host.on(0x12, Outcome::host(HostStatus::NO_CONNECT));
    assert_eq!(rig.admit(), Err(Refusal::Unverified));
    let (outcome, hold) = Outcome::stuck();
    rig.host.on(0x12, outcome);
    assert_eq!(rig.admit(), Err(Refusal::Unverified), "its patience is over");
    hold.release_with(Outcome::status(Status::BUSY));
    rig.pass(ROUND);
    assert_eq!(rig.admit(), Ok(()));
    assert_eq!(rig.told(), [], "that is not being gone");
}

#[test]
fn a_device_that_is_removed_is_let_go_and_found_again_under_another_name() {
    let rig = Rig::new();
    rig.removed();
    assert_eq!(rig.told(), [Present(false)]);
    assert_eq!(rig.admit(), Err(Refusal::Closed));
    assert_eq!(Arc::strong_count(&rig.host), 1, "the descriptor is closed");
    let gone = rig.unit.host().limits().unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
    let folder = rig.tree.device(SCSI, "2:0:0:7");
    rig.disk(&folder, "sdb", "8:16");
    rig.node("/dev/sdb", FakeDevice::default(), place(&rig.tree, "2:0:0:7"));
    rig.tried();
    rig.event("add", "scsi", "", "DEVTYPE=scsi_device");
    assert_eq!(rig.tried(), [Path::new(PATH), Path::new("/dev/sdb")]);
    assert_eq!(rig.told(), [Attention(0x29, 0x01), Present(true)]);
    assert_eq!((rig.admit(), rig.unit.refreshed.load(Ordering::SeqCst)), (Ok(()), 1));
    rig.set("block/sdb/size", "4096");
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x2a, 0x09), Changed(0x2a, 0x09)], "the new one is watched");
}

#[test]
fn only_the_right_device_by_the_right_nexus_comes_back() {
    let rig = Rig::new();
    rig.removed();
    let folder = rig.tree.device(SCSI, "2:0:0:7");
    rig.disk(&folder, "sdb", "8:16");
    rig.told();
    let here = place(&rig.tree, "2:0:0:7");
    let folder = rig.tree.device("pci/host3/target3:0:0", "3:0:0:7");
    rig.disk(&folder, "sdc", "8:32");
    rig.node(PATH, FakeDevice::default(), place(&rig.tree, "3:0:0:7"));
    rig.pass(ROUND);
    let foreign = rig.node(PATH, other(), here.clone());
    rig.pass(ROUND);
    assert_eq!(Arc::strong_count(&foreign), 2, "it is not kept");
    assert_eq!((rig.told(), rig.admit()), (vec![], Err(Refusal::Closed)));
    rig.node(PATH, FakeDevice::default(), here);
    rig.pass(ROUND);
    assert_eq!(rig.told(), [Attention(0x29, 0x01), Present(true)]);
}

#[test]
fn ports_with_names_are_what_a_nexus_is() {
    let named = |initiator: &str, address: &str| {
        let tree = Tree::new();
        tree.device("x", address);
        let ports = Ports { initiator: Some(initiator.into()), target: Some("t".into()) };
        Place { ports, ..place(&tree, address) }
    };
    let old = named("naa.1", "2:0:0:7");
    assert!(old.shares_nexus_with(&named("naa.1", "9:0:0:7")), "loaded again");
    assert!(!old.shares_nexus_with(&named("naa.2", "2:0:0:7")), "another port");
}

#[test]
fn a_removal_that_nobody_told_of_shows() {
    let rig = Rig::new();
    rig.set("state", "deleted");
    rig.pass(ROUND);
    assert_eq!(rig.told(), [Present(false)]);
    let rig = Rig::new();
    rig.host.device().gone = true;
    rig.unit.watch.path_lost();
    rig.unit.watch.errands.settle();
    assert_eq!(rig.told(), [Present(false)]);
}

#[test]
fn an_offline_device_is_not_gone_whatever_the_host_says_of_it() {
    let rig = Rig::with_patience(Duration::from_millis(20));
    rig.set("state", "offline");
    rig.host.device().gone = true;
    rig.unit.watch.path_lost();
    assert_eq!(rig.admit(), Err(Refusal::Unverified));
    rig.pass(ROUND);
    assert_eq!(rig.told(), []);
    assert!(Arc::strong_count(&rig.host) > 1, "it is kept open");
    rig.set("state", "running");
    rig.host.device().gone = false;
    rig.pass(ROUND);
    assert_eq!((rig.told(), rig.admit()), (vec![], Ok(())));
    rig.host.on(0x12, Outcome::Errno(libc::ENXIO));
    rig.unit.watch.path_lost();
    rig.unit.watch.errands.settle();
    assert_eq!((rig.told(), rig.admit()), (vec![], Ok(())), "it was offline just then");
}

#[test]
fn a_device_is_opened_by_the_same_kind_of_node() {
    let rig = Rig::new();
    rig.removed();
    rig.told();
    let folder = rig.tree.device(SCSI, "2:0:0:7");
    rig.node(PATH, FakeDevice::default(), place(&rig.tree, "2:0:0:7"));
    rig.event("add", "scsi", "", "DEVTYPE=scsi_device");
    assert_eq!(rig.told(), []);
    rig.disk(&folder, "sdb", "8:16");
    rig.node(PATH, FakeDevice::default(), place(&rig.tree, "2:0:0:7"));
    rig.event("change", "scsi", "", "SDEV_UA=POWER_ON_RESET_OCCURRED");
    rig.event("bind", "scsi", "", "DEVTYPE=scsi_device");
    rig.event("change", "scsi", "", "SDEV_UA=POWER_ON_RESET_OCCURRED");
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x29, 0x01), Present(true)], "one power-on is one");
}

#[test]
fn a_lost_path_is_borne_for_the_path_timeout() {
    let rig = Rig::new();
    rig.set("state", "transport-offline");
    rig.pass(ROUND);
    rig.pass(PATH_TIMEOUT - SECOND);
    assert_eq!((rig.told(), rig.admit()), (vec![], Ok(())));
    rig.pass(ROUND);
    assert_eq!((rig.told(), rig.admit()), (vec![Present(false)], Err(Refusal::Closed)));
    rig.set("state", "running");
    rig.pass(ROUND);
    assert_eq!(rig.told(), [Attention(0x29, 0x01), Present(true)]);
    assert!(rig.opcodes().contains(&0x12), "who it is has been asked");
}

#[test]
fn a_path_that_was_blocked_leads_who_knows_where() {
    let rig = Rig::new();
    rig.set("state", "blocked");
    rig.pass(ROUND);
    rig.pass(2 * PATH_TIMEOUT);
    assert_eq!((rig.told(), rig.opcodes()), (vec![], vec![]));
    *rig.host.device() = other();
    rig.set("state", "running");
    rig.pass(ROUND);
    assert_eq!(rig.told(), [Present(false)]);
}

#[test]
fn a_changed_size_is_told_however_it_shows() {
    let rig = Rig::new();
    rig.set("block/sda/size", "4096");
    rig.pass(ROUND);
    assert_eq!(rig.told(), []);
    rig.pass(SECOND);
    let told = [Attention(0x2a, 0x09), Changed(0x2a, 0x09)];
    assert_eq!(rig.told(), told);
    assert_eq!(rig.unit.refreshed.load(Ordering::SeqCst), 1);
    rig.pass(2 * SECOND);
    rig.set("block/sda/size", "8192");
    rig.host.on(0x00, Outcome::Errno(libc::EIO));
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [], "it does not say more yet");
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), told);
    rig.pass(2 * SECOND);
    rig.set("block/sda/size", "2048");
    rig.event("change", "block", "/block/sda", "RESIZE=1");
    rig.pass(SECOND);
    assert_eq!(rig.told(), told);
    rig.pass(ROUND);
    rig.pass(ROUND);
    assert_eq!(rig.told(), []);
}

#[test]
fn one_change_that_shows_in_many_ways_is_told_once() {
    let rig = Rig::new();
    rig.event("change", "scsi", "", "SDEV_UA=CAPACITY_DATA_HAS_CHANGED");
    rig.set("block/sda/size", "4096");
    rig.unit.watch.pin.suspect();
    rig.event("change", "block", "/block/sda", "RESIZE=1");
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x2a, 0x09), Changed(0x2a, 0x09)]);
    rig.pass(2 * ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), []);
}

#[test]
fn a_queue_depth_that_the_host_regulates_is_nothing_to_tell() {
    let rig = Rig::new();
    for depth in [7, 8, 9] {
        rig.host.device().limits.queue_depth = depth;
        rig.pass(ROUND);
        rig.pass(SECOND);
    }
    assert_eq!((rig.told(), rig.unit.refreshed.load(Ordering::SeqCst)), (vec![], 0));
}

#[test]
fn changed_limits_are_taken_in_and_told() {
    let rig = Rig::new();
    rig.host.device().limits.max_bytes = 64 << 10;
    rig.host.on(0x00, Outcome::Errno(libc::EIO));
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [], "nothing new can be said yet");
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x3f, 0x03), Changed(0x2a, 0x01)]);
    assert_eq!(rig.unit.limits.lock().unwrap().max_bytes, 64 << 10);
    rig.host.device().limits.max_segments = 1;
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x3f, 0x03), Changed(0x2a, 0x01)]);
}

#[test]
fn what_the_host_was_told_reaches_the_initiator() {
    for (field, told) in [
        ("SDEV_UA=INQUIRY_DATA_HAS_CHANGED", &[Attention(0x3f, 0x03), Changed(0x2a, 0x01)][..]),
        ("SDEV_UA=CAPACITY_DATA_HAS_CHANGED", &[Attention(0x2a, 0x09), Changed(0x2a, 0x09)]),
        ("SDEV_UA=THIN_PROVISIONING_SOFT_THRESHOLD_REACHED", &[Attention(0x38, 0x07)]),
        ("SDEV_UA=MODE_PARAMETERS_CHANGED", &[Attention(0x2a, 0x01), Changed(0x2a, 0x01)]),
        ("SDEV_UA=REPORTED_LUNS_DATA_HAS_CHANGED", &[Attention(0x3f, 0x0e)]),
        ("SDEV_UA=ASYMMETRIC_ACCESS_STATE_CHANGED", &[Attention(0x2a, 0x06)]),
        ("SDEV_UA=POWER_ON_RESET_OCCURRED", &[Attention(0x29, 0x00)]),
        ("SDEV_MEDIA_CHANGE=1", &[Attention(0x28, 0x00)]),
        ("SDEV_UA=SOMETHING_NEW", &[]),
    ] {
        let rig = Rig::new();
        rig.event("change", "scsi", "", field);
        assert_eq!(rig.told(), [], "{field}");
        rig.pass(SECOND);
        assert_eq!(rig.told(), told, "{field}");
        assert_eq!(rig.admit(), Ok(()));
    }
    let rig = Rig::new();
    rig.event("change", "block", "/block/sda", "DISK_MEDIA_CHANGE=1");
    rig.event("change", "scsi", "", "SDEV_MEDIA_CHANGE=1");
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x28, 0x00)]);
    let others = format!("{SCSI}/2:0:0:8");
    rig.hear(&[event("change", "scsi", &others, "SDEV_UA=CAPACITY_DATA_HAS_CHANGED")]);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [], "somebody else's");
}

/// A driver that gets a unit attention from the device looks at nothing because of it.
#[test]
fn what_the_device_told_itself_has_the_driver_look_once_it_has_been_examined() {
    let rig = Rig::new();
    for (code, event) in [
        (SenseCode::CAPACITY_DATA_HAS_CHANGED, Changed(0x2a, 0x09)),
        (SenseCode::MODE_PARAMETERS_CHANGED, Changed(0x2a, 0x01)),
        (SenseCode::INQUIRY_DATA_HAS_CHANGED, Changed(0x2a, 0x01)),
    ] {
        let (outcome, hold) = Outcome::stuck();
        rig.host.on(0x00, outcome);
        rig.unit.watch.device_attention(code);
        hold.wait_for_arrival();
        assert_eq!(rig.told(), [], "what it says is not known yet");
        rig.unit.watch.device_attention(code);
        hold.release();
        rig.pass(ROUND);
        assert_eq!(rig.told(), [event]);
    }
    rig.unit.watch.device_attention(SenseCode::NOT_READY_TO_READY_CHANGE);
    rig.pass(ROUND);
    assert_eq!(rig.told(), []);
}

#[test]
fn what_the_device_told_itself_is_not_told_again() {
    let rig = Rig::new();
    rig.unit.watch.device_attention(SenseCode::CAPACITY_DATA_HAS_CHANGED);
    rig.event("change", "scsi", "", "SDEV_UA=CAPACITY_DATA_HAS_CHANGED");
    rig.pass(2 * SECOND);
    assert_eq!(rig.told(), [Changed(0x2a, 0x09)]);
    rig.event("change", "scsi", "", "SDEV_UA=POWER_ON_RESET_OCCURRED");
    rig.unit.watch.device_attention(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
    rig.pass(2 * SECOND);
    assert_eq!(rig.told(), []);
    rig.unit.watch.device_reset();
    rig.pass(2 * SECOND);
    assert_eq!(rig.told(), [Attention(0x29, 0x03)]);
}

#[test]
fn unit_attentions_that_our_own_questions_use_up_are_passed_on() {
    let rig = Rig::new();
    rig.host.device().attentions.push_back(SenseCode::MODE_PARAMETERS_CHANGED);
    rig.host.device().limits.max_segments = 8;
    rig.pass(ROUND);
    rig.pass(SECOND);
    let told = rig.told();
    assert!(told.contains(&Attention(0x2a, 0x01)), "{told:?}");
}

#[test]
fn a_list_of_luns_that_changed_makes_its_neighbours_suspect() {
    let rig = Rig::new();
    *rig.host.device() = other();
    let neighbour = format!("{SCSI}/2:0:0:3");
    rig.hear(&[event("change", "scsi", &neighbour, "SDEV_UA=REPORTED_LUNS_DATA_HAS_CHANGED")]);
    assert_eq!(rig.told(), [Present(false)]);
}

#[test]
fn events_that_were_lost_could_have_been_any() {
    let rig = Rig::new();
    *rig.host.device() = other();
    rig.hear(&[Event::Missed]);
    assert_eq!(rig.told(), [Present(false)]);
}

#[test]
fn a_lost_registration_is_told() {
    let rig = Rig::new();
    let parameters = [&[0; 8][..], &[1; 8], &[0; 8]].concat();
    let order = rig.unit.watch.order(&Cdb::new(&[0x5f]), &parameters).unwrap();
    let nobody = [0, 0, 0, 1, 0, 0, 0, 0];
    let ours = [&[0, 0, 0, 1, 0, 0, 0, 8][..], &[1; 8]].concat();
    rig.host.on(0x5e, Outcome::data(&ours));
    rig.host.on(0x5e, Outcome::data(&nobody));
    rig.unit.watch.ended(order, Status::GOOD);
    rig.unit.watch.errands.settle();
    rig.host.on(0x5e, Outcome::data(&nobody));
    rig.host.on(0x5e, Outcome::data(&nobody));
    rig.pass(ROUND);
    rig.pass(SECOND);
    assert_eq!(rig.told(), [Attention(0x2a, 0x05)]);
    rig.opcodes();
    rig.pass(ROUND);
    assert_eq!(rig.opcodes(), [], "who has no key asks no more");
}

#[test]
fn a_conflict_is_looked_into_at_once() {
    let rig = Rig::new();
    rig.unit.watch.reservation_conflict();
    rig.unit.watch.errands.settle();
    assert_eq!(rig.opcodes(), []);
    let parameters = [&[0; 8][..], &[1; 8], &[0; 8]].concat();
    let order = rig.unit.watch.order(&Cdb::new(&[0x5f]), &parameters).unwrap();
    order.ended(Status::GOOD);
    rig.unit.watch.reservation_conflict();
    rig.unit.watch.errands.settle();
    assert_eq!(rig.opcodes()[..1], [0x5e]);
}

#[test]
fn a_thousand_logical_units_cost_a_hundred_looks_a_second() {
    let (clock, watcher) = (Clock::stopped(), Arc::new(Watcher::idle().unwrap()));
    let (first, host) = unit(Place::default(), &clock, Pin::PATIENCE);
    drop(host);
    let mut units = vec![first];
    units.extend((1..1000).map(|_| unit(Place::default(), &clock, Pin::PATIENCE).0));
    for unit in &units {
        watcher.watch(&(Arc::clone(unit) as Arc<dyn Watched>));
    }
    let looks = || units.iter().map(|unit| unit.looks.load(Ordering::SeqCst)).sum::<usize>();
    let second = |events: &[Event]| {
        let before = looks();
        clock.advance(SECOND);
        // However often it is woken.
        let next = (0..5).map(|_| watcher.turn(clock.now(), events)).min().unwrap();
        assert!(next > clock.now());
        units.iter().for_each(|unit| unit.watch.errands.settle());
        assert_eq!(looks() - before, 100);
    };
    for events in [&[][..], &[Event::Missed]] {
        (0..10).for_each(|_| second(events));
        let looks: Vec<_> = units.iter().map(|it| it.looks.swap(0, Ordering::SeqCst)).collect();
        assert_eq!(looks, [1; 1000], "each had its turn");
    }
}

#[test]
fn the_watcher_ends_with_the_last_logical_unit() {
    let (unit, _) = unit(Place::default(), &Clock::default(), Pin::PATIENCE);
    let watcher = Arc::new(Watcher::idle().unwrap());
    let ears = Ears::of(&watcher, None).unwrap();
    let watched = Arc::downgrade(&watcher);
    let thread = thread::spawn(move || ears.listen(&watched));
    watcher.watch(&(Arc::clone(&unit) as Arc<dyn Watched>));
    drop(watcher);
    wait_until(|| unit.looks.load(Ordering::SeqCst) > 0);
    assert!(!thread.is_finished());
    unit.watch.device_reset();
    let told = || unit.initiator.told.lock().unwrap().clone();
    wait_until(|| told() == [Attention(0x29, 0x03)]);
    drop(unit);
    wait_until(|| thread.is_finished());
}

#[test]
fn there_is_one_for_the_process() {
    let first = Watcher::of_process().unwrap();
    let second = Watcher::of_process().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn a_map_is_as_well_as_the_best_of_its_paths() {
    let tree = Tree::new();
    let map = tree.block("devices/virtual/block/dm-0", "253:0");
    tree.file(&format!("{map}/size"), "2048");
    for (host, name) in [("4", "sdc"), ("5", "sdd")] {
        let device = tree.device(&format!("pci/host{host}/x"), &format!("{host}:0:0:1"));
        let leg = tree.disk(&device, name, &format!("8:{host}"));
        tree.link(&format!("{map}/slaves/{name}"), &leg);
    }
    let state = |host: u8, state: &str| {
        tree.file(&format!("devices/pci/host{host}/x/{host}:0:0:1/state"), state);
    };
    let legs = |place: &Place| place.addresses().iter().map(Hctl::to_string).collect::<Vec<_>>();
    let block = tree.block_node(&map);
    let place = Place { device: None, block: Some(block), ports: Ports::default() };
    assert_eq!(legs(&place), ["4:0:0:1", "5:0:0:1"]);
    assert_eq!(place.look(), Sight::Running(Some(2048)));
    state(4, "offline");
    assert_eq!(place.look(), Sight::Running(Some(2048)));
    state(5, "transport-offline");
    assert_eq!(place.look(), Sight::Offline);
    tree.remove("devices/virtual/block/dm-0");
    assert_eq!(place.look(), Sight::Gone);
}

#[test]
fn paths_that_come_and_come_back_are_noticed() {
    let tree = Tree::new();
    let leg = |name: &str, host: u8| {
        let device = tree.device(&format!("pci/host{host}/x"), &format!("{host}:0:0:1"));
        tree.disk(&device, name, &format!("8:{host}"))
    };
    let map = tree.volume("mpath-x", &[&leg("sdc", 4), &leg("sdd", 5)]);
    tree.file(&format!("{map}/size"), "2048");
    let place = Place { device: None, block: Some(tree.block_node(&map)), ports: Ports::default() };
    let (clock, watcher) = (Clock::stopped(), Arc::new(Watcher::idle().unwrap()));
    let (unit, host) = unit(place, &clock, Pin::PATIENCE);
    watcher.watch(&(Arc::clone(&unit) as Arc<dyn Watched>));
    let refreshes = |events: &[Event]| {
        clock.advance(ROUND);
        watcher.turn(clock.now(), events);
        unit.watch.errands.settle();
        host.take_refreshes()
    };
    assert_eq!([refreshes(&[]), refreshes(&[])], [0, 0]);
    // As multipathd has the map use a path again, which the host never had for offline.
    let event = |action| event("change", "block", "virtual/block/dm-0", action);
    assert_eq!(refreshes(&[event("DM_ACTION=PATH_FAILED")]), 0);
    assert_eq!(refreshes(&[event("DM_ACTION=PATH_REINSTATED")]), 1);
    let state = |state| tree.file("devices/pci/host5/x/5:0:0:1/state", state);
    state("transport-offline");
    refreshes(&[]);
    state("running");
    assert_eq!([refreshes(&[]), refreshes(&[])], [1, 0]);
    tree.link(&format!("{map}/slaves/sde"), &leg("sde", 6));
    assert_eq!([refreshes(&[]), refreshes(&[])], [1, 0]);
}
