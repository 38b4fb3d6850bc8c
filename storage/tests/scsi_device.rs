//! Real SCSI devices: the kernel's scsi_debug, by each kind of node. Runs as root where that module
//! can be loaded and is not there already, and skips itself elsewhere.
#![expect(unsafe_code, reason = "buffers are lent to commands, and capabilities dropped")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use storage::host::filter::kernel_allows;
use storage::host::privilege;
use storage::host::sg::SgDevice;
use storage::host::sysfs::{Hctl, ScsiDevice, Sysfs};
use storage::host::uevent::{Event, Uevents};
use storage::host::{Completion, Data, HostStatus, OpenError, Options, Request, ScsiHost};
use storage::scsi::sense::SenseCode;
use storage::scsi::status::Status;
use storage::testing::OwnedBuf;

/// Longer than anything here takes, and than the kernel's shortest time-out of a block node.
const LONG: Duration = Duration::from_secs(60);

// ---- a device of scsi_debug -------------------------------------------------

/// The module, loaded for one test; devices go when it is dropped.
struct Debug {
    sysfs: Sysfs,
    driver: &'static Path,
    _alone: MutexGuard<'static, ()>,
}

impl Debug {
    /// `None`, with a line that says so, where there is none to be had.
    fn load(parameters: &[&str]) -> Option<Debug> {
        let alone = alone();
        let there = Path::new("/sys/module/scsi_debug").exists();
        // SAFETY: no memory is passed.
        if there || unsafe { libc::geteuid() } != 0 {
            return skipped("needs root, and scsi_debug for itself");
        }
        let mut modprobe = Command::new("modprobe");
        modprobe.args(["scsi_debug", "dev_size_mb=8", "delay=0"]).args(parameters);
        if !modprobe.output().is_ok_and(|output| output.status.success()) {
            return skipped("scsi_debug cannot be loaded");
        }
        let driver = Path::new("/sys/bus/pseudo/drivers/scsi_debug");
        Some(Debug { sysfs: Sysfs::default(), driver, _alone: alone })
    }

    /// Its only device.
    fn device(&self) -> ScsiDevice {
        let find = || {
            let devices = self.sysfs.devices().ok()?;
            let ours = |device: &ScsiDevice| device.transport() == "scsi_debug";
            with_nodes(devices.into_iter().find(ours)?)
        };
        eventually(find)
    }

    fn set(&self, parameter: &str, value: &str) {
        fs::write(self.driver.join(parameter), value).unwrap();
    }

    /// Leaves the device without its block node.
    fn without_block_node(&self) -> ScsiDevice {
        let device = self.device();
        fs::write("/sys/bus/scsi/drivers/sd/unbind", device.address().to_string()).unwrap();
        assert_eq!(device.block(), None);
        device
    }
}

impl Drop for Debug {
    fn drop(&mut self) {
        let unloaded = || {
            let modprobe = Command::new("modprobe").args(["-r", "scsi_debug"]).output().ok()?;
            modprobe.status.success().then_some(())
        };
        let gone = within(LONG, unloaded).is_some();
        assert!(gone || thread::panicking(), "scsi_debug stays loaded");
    }
}

/// A RAM disk of LIO's by its loopback, for one test.
struct Loopback {
    fabric: PathBuf,
    store: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Loopback {
    /// `None`, with a line that says so, where there is none to be had.
    fn make() -> Option<Loopback> {
        let alone = alone();
        let target = Path::new("/sys/kernel/config/target");
        let modules = ["-qa", "target_core_mod", "tcm_loop"];
        let there = Command::new("modprobe").args(modules).output();
        // SAFETY: no memory is passed.
        let root = unsafe { libc::geteuid() } == 0;
        if !root || !there.is_ok_and(|it| it.status.success()) || !target.exists() {
            return skipped("needs root, and LIO");
        }
        let (fabric, store) = (target.join("loopback"), target.join("core/rd_mcp_0"));
        let this = Loopback { fabric, store, _alone: alone };
        fs::create_dir_all(this.store()).unwrap();
        fs::write(this.store().join("control"), "rd_pages=256").unwrap();
        fs::write(this.store().join("enable"), "1").unwrap();
        let unit = this.group().join("lun/lun_0");
        fs::create_dir_all(this.group()).unwrap();
        fs::write(this.group().join("nexus"), "naa.60014050000000b2").unwrap();
        fs::create_dir(&unit).unwrap();
        std::os::unix::fs::symlink(this.store(), unit.join("store")).unwrap();
        Some(this)
    }

    fn store(&self) -> PathBuf {
        self.store.join("scsi_device_test")
    }

    fn group(&self) -> PathBuf {
        self.fabric.join("naa.50014050000000a1/tpgt_1")
    }

    fn device(&self) -> ScsiDevice {
        let address = fs::read_to_string(self.group().join("address")).unwrap();
        let address = format!("{}:0", address.trim()).parse().unwrap();
        eventually(|| with_nodes(Sysfs::default().device(address)?))
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let group = self.group();
        let _ = fs::remove_file(group.join("lun/lun_0/store"));
        let _ = fs::remove_dir(group.join("lun/lun_0"));
        let _ = fs::remove_dir(group);
        let _ = fs::remove_dir(self.fabric.join("naa.50014050000000a1"));
        let _ = fs::remove_dir(self.store());
        let _ = fs::remove_dir(&self.store);
    }
}

/// Tests take turns: each has devices that the whole machine sees.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device once its nodes are there: they come later than the device.
fn with_nodes(device: ScsiDevice) -> Option<ScsiDevice> {
    let block = device.block().is_some_and(|block| block.path().exists());
    (block && sg_node(&device).exists()).then_some(device)
}

fn eventually<T>(find: impl FnMut() -> Option<T>) -> T {
    within(LONG, find).expect("nothing came")
}

fn within<T>(limit: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        match find() {
            None if start.elapsed() < limit => thread::sleep(Duration::from_millis(20)),
            found => return found,
        }
    }
}

/// A test that cannot run here has passed, unless `VMM_REQUIRE_SCSI` is set.
fn skipped<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("VMM_REQUIRE_SCSI").is_none(), "{why}");
    println!("skipped: {why}");
    None
}

fn sg_node(device: &ScsiDevice) -> PathBuf {
    Path::new("/dev").join(device.sg().unwrap_or_default())
}

fn block_node(device: &ScsiDevice) -> PathBuf {
    device.block().unwrap().path()
}

fn open(path: &Path) -> SgDevice {
    opened(path, Options::default())
}

fn opened(path: &Path, options: Options) -> SgDevice {
    SgDevice::open(path, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What opening and checking say, which is one.
fn refusal(path: &Path, options: Options) -> OpenError {
    let error = SgDevice::open(path, &options).expect_err("must be refused");
    let checked = SgDevice::check(path, &options).expect_err("must be refused");
    assert_eq!(checked.to_string(), error.to_string());
    error
}

fn is_sg(host: &SgDevice) -> bool {
    host.node().to_str().unwrap().starts_with("/dev/sg")
}

/// A test with the device by its block node, and once more with an sg node alone.
fn by_each_node(parameters: &[&str], test: impl Fn(&Debug, &SgDevice)) {
    let Some(debug) = Debug::load(parameters) else { return };
    let host = open(&block_node(&debug.device()));
    assert!(!is_sg(&host));
    test(&debug, &host);
    drop(host);
    let host = open(&sg_node(&debug.without_block_node()));
    assert!(is_sg(&host));
    test(&debug, &host);
}

// ---- commands ------------------------------------------------------------------

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const BLOCK: usize = 512;

fn send(host: &SgDevice, cdb: &[u8], data: Data<'_>) -> io::Result<Completion> {
    host.execute(Request { cdb, data, timeout: LONG })
}

fn receive(host: &SgDevice, cdb: &[u8], memory: &mut OwnedBuf) -> io::Result<Completion> {
    // SAFETY: the command has ended before the memory is used again.
    let mut data = unsafe { memory.lend() };
    send(host, cdb, Data::In(&mut data))
}

fn transmit(host: &SgDevice, cdb: &[u8], memory: &mut OwnedBuf) -> io::Result<Completion> {
    // SAFETY: the command has ended before the memory is used again.
    let data = unsafe { memory.lend() };
    send(host, cdb, Data::Out(&data))
}

fn good(resid: i32) -> Completion {
    Completion { resid, ..Completion::default() }
}

/// READ(10) or WRITE(10).
fn ten(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x28, lba, blocks)
}

fn write(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x2a, lba, blocks)
}

fn inquiry(allocation_length: u8) -> [u8; 6] {
    [0x12, 0, 0, 0, allocation_length, 0]
}

fn numbered(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// Takes the unit attentions that a new device has.
fn ready(host: &SgDevice) {
    eventually(|| (send(host, &TEST_UNIT_READY, Data::None).unwrap() == good(0)).then_some(()));
}

fn round_trip(host: &SgDevice, lengths: &[usize]) {
    let len = lengths.iter().sum();
    let blocks = u16::try_from(len / BLOCK).unwrap();
    let mut memory = OwnedBuf::zeroed(lengths);
    memory.fill(&numbered(len));
    assert_eq!(transmit(host, &write(3, blocks), &mut memory).unwrap(), good(0));
    memory.fill(&vec![0xff; len]);
    assert_eq!(receive(host, &read(3, blocks), &mut memory).unwrap(), good(0));
    assert!(memory.bytes() == numbered(len), "{} segments", lengths.len());
}

#[test]
fn data_goes_both_ways_in_any_segments() {
    by_each_node(&[], |_, host| {
        ready(host);
        round_trip(host, &[4096]);
        round_trip(host, &[512, 4096, 1024, 8192]);
        round_trip(host, &[1, 510, 1, 7, 505]);
        round_trip(host, &[128; 1024]);
        round_trip(host, &[128; 1028]);
    });
}

#[test]
fn what_the_device_does_not_fill_stays_as_it_was() {
    by_each_node(&[], |_, host| {
        for lengths in [vec![252], vec![252, 4], vec![1; 1030]] {
            let len: usize = lengths.iter().sum();
            let mut memory = OwnedBuf::aligned(&lengths, 4096);
            memory.fill(&vec![0xee; len]);
            let completion = receive(host, &inquiry(252), &mut memory).unwrap();
            let moved = len - usize::try_from(completion.resid).unwrap();
            assert_eq!(completion, good(completion.resid));
            assert_eq!(moved, 96, "bytes of scsi_debug's INQUIRY data");
            assert_eq!(&memory.bytes()[8..14], b"Linux ");
            assert!(memory.bytes()[moved..].iter().all(|byte| *byte == 0xee));
        }
    });
}

#[test]
fn sense_data_comes_whole_in_its_own_format() {
    by_each_node(&["dsense=1"], |_, host| {
        ready(host);
        let mut memory = OwnedBuf::zeroed(&[BLOCK]);
        let completion = receive(host, &read(1 << 30, 1), &mut memory).unwrap();
        assert_eq!(completion.status, Status::CHECK_CONDITION);
        assert_eq!(completion.host_status, HostStatus::OK);
        assert_eq!(completion.sense, [0x72, 5, 0x21, 0, 0, 0, 0, 0]);
        // CMDDT, which is obsolete: the second bit of the second byte.
        let completion = send(host, &[0x12, 2, 0, 0, 0, 0], Data::None).unwrap();
        let field_pointer = [2, 6, 0, 0, 0xc9, 0, 1, 0];
        assert_eq!(completion.sense[..8], [0x72, 5, 0x24, 0, 0, 0, 0, 8]);
        assert_eq!(completion.sense[8..], field_pointer);
    });
}

#[test]
fn what_the_host_s_driver_keeps_of_fixed_sense_data_comes_too() {
    by_each_node(&["opts=2"], |_, host| {
        ready(host);
        let mut memory = OwnedBuf::zeroed(&[BLOCK]);
        let sense = receive(host, &read(0x1234, 1), &mut memory).unwrap().sense;
        // VALID, and the block in INFORMATION.
        assert_eq!(sense[..7], [0xf0, 0, 3, 0, 0, 0x12, 0x34]);
        assert_eq!((sense[12], sense[13], sense.len()), (0x11, 0, 18));
    });
}

#[test]
fn a_command_that_takes_too_long_is_ended_by_the_host() {
    by_each_node(&[], |debug, host| {
        ready(host);
        debug.set("opts", "4");
        debug.set("every_nth", "1");
        let start = Instant::now();
        let request = Request {
            cdb: &TEST_UNIT_READY,
            data: Data::None,
            timeout: Duration::from_millis(500),
        };
        let completion = host.execute(request).unwrap();
        debug.set("every_nth", "0");
        debug.set("opts", "0");
        assert_eq!(completion.host_status, HostStatus::TIME_OUT);
        let floor = if is_sg(host) { 0 } else { 6 };
        assert!(start.elapsed() > Duration::from_secs(floor));
        ready(host);
    });
}

#[test]
fn what_cannot_be_carried_is_an_error_and_not_sent() {
    by_each_node(&[], |_, host| {
        ready(host);
        let errno = |result: io::Result<Completion>| result.unwrap_err().raw_os_error();
        assert_eq!(errno(send(host, &[0; 5], Data::None)), Some(libc::EMSGSIZE));
        assert_eq!(errno(send(host, &[0; 33], Data::None)), Some(libc::EMSGSIZE));
        // READ (32) of nothing reaches the device, whatever that thinks of it.
        let mut cdb = [0; 32];
        (cdb[0], cdb[7], cdb[9]) = (0x7f, 0x18, 0x09);
        let completion = send(host, &cdb, Data::None).unwrap();
        assert_eq!(completion.host_status, HostStatus::OK);
    });
}

#[test]
fn data_beyond_the_host_s_limit_is_an_error() {
    let Some(target) = Loopback::make() else { return };
    let host = open(&block_node(&target.device()));
    let limits = host.limits().unwrap();
    // More than one command takes, in as many segments as the device does, and as no call does.
    for (count, errors) in [(256, [libc::EIO, libc::EINVAL]), (1025, [libc::EIO, libc::EIO])] {
        let len = usize::try_from(limits.max_hw_bytes).unwrap() / count + 1;
        // One piece of memory many times over.
        let mut piece = vec![0u8; len.next_multiple_of(4096)];
        let segment = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
        let mut segments = vec![segment; count];
        let first = std::ptr::NonNull::new(segments.as_mut_ptr()).unwrap();
        // SAFETY: the segments and their memory live until the command has ended.
        let mut data = unsafe { storage::buffer::DataBuf::from_raw(first, count) };
        let error = send(&host, &read(0, 1), Data::In(&mut data)).unwrap_err();
        assert!(errors.map(Some).contains(&error.raw_os_error()), "{count} segments: {error}");
    }
}

#[test]
fn what_the_device_does_not_take_is_told() {
    let Some(target) = Loopback::make() else { return };
    let host = open(&block_node(&target.device()));
    // PERSISTENT RESERVE OUT, REGISTER: 24 bytes of parameter list out of 512.
    let mut list = vec![0; 512];
    list[15] = 7;
    let mut memory = OwnedBuf::holding(&list);
    let cdb = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    ready(&host);
    // LIO takes the list or calls it too long, by its version.
    let completion = transmit(&host, &cdb, &mut memory).unwrap();
    assert_eq!((completion.resid, completion.host_status), (488, HostStatus::OK));
}

#[test]
fn the_ports_of_a_loopback_are_found() {
    let Some(target) = Loopback::make() else { return };
    let device = target.device();
    assert_eq!(device.transport(), "tcm_loop");
    let ports = open(&block_node(&device)).ports();
    assert_eq!(ports.initiator.as_deref(), Some("naa.60014050000000b2"));
    assert_eq!(ports.target.as_deref(), Some("naa.50014050000000a1,t,1"));
}

#[test]
fn a_signal_sends_nothing_twice() {
    by_each_node(&["statistics=1"], |debug, host| {
        ready(host);
        let address = host.address().unwrap();
        let before = requests(address);
        debug.set("delay", "200");
        // Stops this process while it waits, and lets it go on.
        let script =
            format!("sleep 0.3; kill -STOP {0}; sleep 0.3; kill -CONT {0}", std::process::id());
        let mut stopper = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let mut memory = OwnedBuf::zeroed(&[BLOCK]);
        let completion = receive(host, &read(0, 1), &mut memory).unwrap();
        assert!(stopper.wait().unwrap().success());
        debug.set("delay", "0");
        assert_eq!(completion, good(0));
        assert_eq!(requests(address) - before, 1);
    });
}

/// Commands that the host has sent to a device.
fn requests(address: Hctl) -> u64 {
    let path = format!("/sys/bus/scsi/devices/{address}/iorequest_cnt");
    let text = fs::read_to_string(path).unwrap();
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn a_logical_unit_is_reset_by_who_may() {
    by_each_node(&[], |_, host| {
        ready(host);
        host.reset_logical_unit().unwrap();
        let completion = send(host, &TEST_UNIT_READY, Data::None).unwrap();
        let code = SenseCode::of(&completion.sense).unwrap();
        assert_eq!((code.key.0, code.asc), (6, 0x29));
        let error = unprivileged(|| host.reset_logical_unit()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    });
}

// ---- limits and places ------------------------------------------------------------

#[test]
fn limits_are_those_of_the_kernel() {
    by_each_node(&["max_queue=9"], |_, host| {
        let limits = host.limits().unwrap();
        assert_eq!(limits.queue_depth, 9);
        assert!(limits.max_bytes >= 65536 && limits.max_bytes <= limits.max_hw_bytes);
        assert!(limits.max_segments > 1);
    });
}

#[test]
fn a_device_is_found_by_any_of_its_names() {
    let Some(debug) = Debug::load(&[]) else { return };
    let device = debug.device();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("by-id");
    std::os::unix::fs::symlink(block_node(&device), &link).unwrap();
    for path in [link, block_node(&device), sg_node(&device)] {
        let host = open(&path);
        assert_eq!(host.node(), block_node(&device));
        assert_eq!(host.address(), Some(device.address()));
        assert!(host.writable() && host.legs().is_empty());
    }
}

// ---- who may have it ------------------------------------------------------------

#[test]
fn a_device_has_one_user() {
    by_each_node(&[], |_, host| {
        let path = host.node();
        let error = refusal(path, Options::default());
        assert_eq!(error.to_string(), "is in use by another logical unit of this guest");
        let shared = Options { shared_nexus: true, ..Options::default() };
        for options in [
            shared,
            Options { read_only: true, ..Options::default() },
            Options { force: true, ..Options::default() },
        ] {
            assert!(matches!(refusal(path, options), OpenError::InUse(Some(_))), "{options:?}");
        }
    });
}

#[test]
fn those_who_share_a_nexus_have_it_together() {
    let Some(debug) = Debug::load(&[]) else { return };
    let path = block_node(&debug.device());
    let shared = Options { shared_nexus: true, ..Options::default() };
    let one = opened(&path, shared);
    SgDevice::check(&path, &shared).unwrap();
    let other = opened(&path, shared);
    drop((one, other));
    SgDevice::check(&path, &Options::default()).unwrap();
    drop(open(&path));
}

#[test]
fn what_another_program_has_for_itself_is_in_use() {
    use std::os::unix::fs::OpenOptionsExt;
    let Some(debug) = Debug::load(&[]) else { return };
    let path = block_node(&debug.device());
    let mut options = fs::OpenOptions::new();
    let theirs = options.read(true).custom_flags(libc::O_EXCL).open(&path).unwrap();
    let error = refusal(&path, Options::default());
    assert_eq!(error.to_string(), "is in use by another logical unit of this guest");
    drop(opened(&path, Options { force: true, ..Options::default() }));
    drop(theirs);
    drop(open(&path));
}

#[test]
fn a_part_is_refused_and_a_disk_with_a_part_in_use_too() {
    let Some(debug) = Debug::load(&["num_parts=1"]) else { return };
    let disk = block_node(&debug.device());
    let part = PathBuf::from(format!("{}1", disk.display()));
    eventually(|| part.exists().then_some(()));
    assert!(matches!(refusal(&part, Options::default()), OpenError::Partition { .. }));

    let point = tempfile::tempdir().unwrap();
    run("mke2fs", &["-q", "-F", part.to_str().unwrap()]);
    run("mount", &[part.to_str().unwrap(), point.path().to_str().unwrap()]);
    let mounted = Undo("umount", vec![point.path().to_str().unwrap().into()]);
    let names = [disk.clone(), sg_node(&debug.device())];
    let refusals = names.map(|path| refusal(&path, Options::default()).to_string());
    drop(opened(&disk, Options { force: true, ..Options::default() }));
    drop(mounted);
    let name = part.file_name().unwrap().to_str().unwrap();
    let point = point.path().display();
    let expected = format!("has the partition {name}, which is mounted at {point}");
    assert_eq!(refusals, [expected.clone(), expected]);
    drop(open(&disk));
}

#[test]
fn a_disk_that_a_volume_is_made_of_is_in_use() {
    let Some(debug) = Debug::load(&[]) else { return };
    let disk = block_node(&debug.device());
    if !Command::new("dmsetup").arg("version").output().is_ok_and(|it| it.status.success()) {
        return skipped("there is no device mapper").unwrap_or_default();
    }
    let table = format!("0 64 linear {} 0", disk.display());
    run("dmsetup", &["create", "--noudevsync", "scsi-device-test", "--table", &table]);
    let remove = ["remove", "--noudevsync", "scsi-device-test"];
    let made = Undo("dmsetup", remove.map(String::from).into());
    let of_disk = refusal(&disk, Options::default()).to_string();
    let of_volume = refusal(&holder(&disk), Options::default()).to_string();
    drop(made);
    assert_eq!(of_disk, "is a part of /dev/mapper/scsi-device-test");
    assert!(of_volume.starts_with("is \"scsi-device-test\", a volume"));
    drop(open(&disk));
}

fn holder(disk: &Path) -> PathBuf {
    let name = disk.file_name().unwrap().to_str().unwrap();
    let mut holders = fs::read_dir(format!("/sys/block/{name}/holders")).unwrap();
    Path::new("/dev").join(holders.next().unwrap().unwrap().file_name())
}

/// What is run at the end, however it comes.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let done = Command::new(self.0).args(&self.1).status();
        assert!(done.is_ok_and(|it| it.success()) || thread::panicking(), "{}", self.0);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_write_protected_device_is_opened_for_reading_alone() {
    let Some(debug) = Debug::load(&["wp=1"]) else { return };
    let path = block_node(&debug.device());
    assert!(matches!(refusal(&path, Options::default()), OpenError::ReadOnly));
    let host = opened(&path, Options { read_only: true, ..Options::default() });
    assert!(!host.writable());
}

// ---- devices come and go --------------------------------------------------------

fn delete(address: Hctl) {
    fs::write(format!("/sys/bus/scsi/devices/{address}/delete"), "1").unwrap();
}

#[test]
fn a_device_that_goes_away_is_gone() {
    by_each_node(&[], |debug, host| {
        ready(host);
        let address = host.address().unwrap();
        delete(address);
        assert_eq!(host.limits().unwrap_err().raw_os_error(), Some(libc::ENODEV));
        match send(host, &TEST_UNIT_READY, Data::None) {
            Ok(completion) => assert_eq!(completion.host_status, HostStatus::NO_CONNECT),
            Err(error) => {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)),
                    "{error}"
                );
            }
        }
        assert!(Sysfs::default().device(address).is_none());
        // For the other node.
        let scan = format!("/sys/class/scsi_host/host{}/scan", address.host);
        fs::write(scan, "- - -").unwrap();
        assert_eq!(debug.device().address(), address);
    });
}

#[test]
fn a_command_that_runs_ends_when_its_device_goes_away() {
    by_each_node(&[], |debug, host| {
        ready(host);
        debug.set("delay", "100");
        let address = host.address().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(100));
                delete(address);
            });
            let mut memory = OwnedBuf::zeroed(&[BLOCK]);
            // Its end, or that nobody knows: but it returns.
            let _ = receive(host, &read(0, 1), &mut memory);
        });
        debug.set("delay", "0");
        let scan = format!("/sys/class/scsi_host/host{}/scan", address.host);
        fs::write(scan, "- - -").unwrap();
        debug.device();
    });
}

#[test]
fn events_of_a_device_are_heard_by_anybody() {
    let Some(debug) = Debug::load(&[]) else { return };
    let device = debug.device();
    let host = open(&block_node(&device));
    ready(&host);
    let events = unprivileged(Uevents::listen).unwrap();
    debug.set("virtual_gb", "1");
    let mut memory = OwnedBuf::zeroed(&[BLOCK]);
    let sense = receive(&host, &read(0, 1), &mut memory).unwrap().sense;
    assert_eq!(SenseCode::of(&sense).map(|code| (code.asc, code.ascq)), Some((0x2a, 9)));
    let heard = |wanted: &dyn Fn(&storage::host::uevent::Uevent) -> bool| {
        eventually(|| match events.wait(Duration::from_secs(1)).unwrap() {
            Some(Event::Device(event)) => wanted(&event).then_some(()),
            Some(Event::Missed) => panic!("few events, and some are lost"),
            None => None,
        });
    };
    heard(&|event| {
        event.address() == Some(device.address())
            && event.action() == "change"
            && event.get("SDEV_UA") == Some("CAPACITY_DATA_HAS_CHANGED")
    });
    delete(device.address());
    heard(&|event| {
        event.address() == Some(device.address())
            && (event.action(), event.subsystem()) == ("remove", "scsi")
            && event.get("DEVTYPE") == Some("scsi_device")
    });
}

#[test]
fn events_that_were_lost_are_told() {
    let Some(debug) = Debug::load(&[]) else { return };
    let device = debug.device();
    let events = Uevents::listen().unwrap();
    let uevent = format!("/sys/bus/scsi/devices/{}/uevent", device.address());
    for _ in 0..2000 {
        fs::write(&uevent, "change").unwrap();
    }
    let mut all = std::iter::from_fn(|| events.wait(Duration::ZERO).unwrap());
    assert!(all.any(|event| event == Event::Missed));
    fs::write(&uevent, "change").unwrap();
    let mut all = std::iter::from_fn(|| events.wait(Duration::from_secs(1)).unwrap());
    assert!(all.any(|event| matches!(event, Event::Device(_))));
}

// ---- privilege --------------------------------------------------------------------

/// Runs `act` in a thread without any capability.
fn unprivileged<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                // Version 3, this thread; no effective, permitted or inheritable bits.
                let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
                // SAFETY: both are as long as this version has them.
                let result =
                    unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
                assert_eq!(result, 0);
                assert!(!privilege::has_rawio() && !privilege::may_reset());
                act()
            })
            .join()
            .unwrap()
    })
}

/// The opcodes that the kernel does not carry, by asking it for each.
fn refused(host: &SgDevice) -> Vec<u8> {
    let refuses = |opcode: &u8| {
        let mut cdb = [0; 16];
        cdb[0] = *opcode;
        match send(host, &cdb, Data::None) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{opcode:02x}");
                true
            }
        }
    };
    (0..=255).filter(refuses).collect()
}

fn expected(allowed: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    (0..=255).filter(|opcode| !allowed(&[*opcode])).collect()
}

#[test]
fn the_kernel_s_filter_is_as_the_table_has_it() {
    let Some(debug) = Debug::load(&[]) else { return };
    let device = debug.device();
    let read_only = Options { read_only: true, ..Options::default() };
    let (writable, reading) =
        (expected(|cdb| kernel_allows(cdb, true)), expected(|cdb| kernel_allows(cdb, false)));
    as_told(&block_node(&device), Options::default(), &writable);
    as_told(&block_node(&device), read_only, &reading);
    debug.without_block_node();
    as_told(&sg_node(&device), read_only, &reading);
    as_told(&sg_node(&device), Options::default(), &[]);
}

fn as_told(path: &Path, options: Options, by_table: &[u8]) {
    let host = opened(path, options);
    assert_eq!(refused(&host), [], "{} as root", path.display());
    let (by_kernel, by_device) =
        unprivileged(|| (refused(&host), expected(|cdb| host.kernel_allows(cdb))));
    assert_eq!(by_kernel, by_table, "{} {options:?}", path.display());
    assert_eq!(by_kernel, by_device, "{} {options:?}", path.display());
    assert!(privilege::has_rawio() && expected(|cdb| host.kernel_allows(cdb)).is_empty());
}

#[test]
fn where_the_block_node_does_not_open_the_sg_node_does() {
    use std::os::unix::fs::PermissionsExt;
    let Some(debug) = Debug::load(&[]) else { return };
    let device = debug.device();
    let (block, sg) = (block_node(&device), sg_node(&device));
    fs::set_permissions(&block, fs::Permissions::from_mode(0o000)).unwrap();
    unprivileged(|| {
        let error = refusal(&block, Options::default());
        assert_eq!(error.to_string(), "cannot be opened: permission denied");
        SgDevice::check(&sg, &Options::default()).unwrap();
        let host = open(&sg);
        assert_eq!(host.node(), sg);
        ready(&host);
        assert!(host.limits().unwrap().max_hw_bytes > 0);
    });
    fs::set_permissions(&sg, fs::Permissions::from_mode(0o400)).unwrap();
    unprivileged(|| {
        let error = refusal(&sg, Options::default());
        assert!(matches!(error, OpenError::Open(_)));
        let host = opened(&sg, Options { read_only: true, ..Options::default() });
        assert!(!host.writable());
    });
}

#[test]
fn commands_of_many_threads_share_an_sg_node() {
    let Some(debug) = Debug::load(&["delay=1"]) else { return };
    let host = Arc::new(open(&sg_node(&debug.without_block_node())));
    ready(&host);
    thread::scope(|scope| {
        for thread in 0..8u32 {
            let host = Arc::clone(&host);
            scope.spawn(move || {
                let bytes = vec![u8::try_from(thread).unwrap(); BLOCK];
                for _ in 0..20 {
                    let mut memory = OwnedBuf::holding(&bytes);
                    assert_eq!(transmit(&host, &write(thread, 1), &mut memory).unwrap(), good(0));
                    memory.fill(&[0xff; BLOCK]);
                    assert_eq!(receive(&host, &read(thread, 1), &mut memory).unwrap(), good(0));
                    assert_eq!(memory.bytes(), bytes);
                }
            });
        }
    });
}
