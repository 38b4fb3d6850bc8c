//! What can be opened, who else may have it then, and what is said where it cannot.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, process};

use common::Initiator;
use common::host::{self, Loop, image};
use storage::backend::{Backend, BlockDevice, Kind, OpenError, Options, RawFile};
use storage::engine::IoContext;
use storage::lun::spec::{Backing, DiskSpec, LunSpec};
use storage::lun::{self, LogicalUnit};
use storage::scsi::sense::SenseCode;
use storage::task::Response;
use storage::testing::disk_spec;

const SIZE: u64 = 1 << 20;

/// One test at a time: a process that another test starts has, for a moment, the files of this
/// one, and their locks.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_image(path: &Path) -> DiskSpec {
    DiskSpec { backing: Backing::RawImage(path.into()), ..disk_spec() }
}

fn of_device(path: &Path) -> DiskSpec {
    DiskSpec { backing: Backing::BlockDevice(path.into()), ..disk_spec() }
}

fn unit(spec: &DiskSpec) -> LunSpec {
    LunSpec::Disk(spec.clone())
}

fn read_only(spec: &DiskSpec) -> DiskSpec {
    DiskSpec { read_only: true, ..spec.clone() }
}

fn shared(spec: &DiskSpec) -> DiskSpec {
    DiskSpec { shared: true, ..spec.clone() }
}

/// What opening and checking say, which is one.
fn refusal(spec: &DiskSpec) -> String {
    let opened = lun::open(&unit(spec)).expect_err("must be refused").to_string();
    assert_eq!(lun::check(&unit(spec)).expect_err("must be refused").to_string(), opened);
    opened
}

fn open(spec: &DiskSpec) -> Arc<dyn LogicalUnit> {
    lun::check(&unit(spec)).unwrap();
    lun::open(&unit(spec)).unwrap()
}

#[track_caller]
fn assert_refused(spec: &DiskSpec, predicate: &str) {
    let path = spec.backing.path().display();
    assert_eq!(refusal(spec), format!("{path} {predicate}"));
}

#[test]
fn what_is_no_image_is_named_for_what_it_is() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let missing = "cannot be opened: no such file; create it, or correct the path";
    assert_refused(&of_image(&at("missing")), missing);
    assert_refused(&of_device(&at("missing")), missing);
    symlink(at("missing"), at("dangling")).unwrap();
    assert_refused(&of_image(&at("dangling")), missing);

    assert_refused(&of_image(folder.path()), "is a directory; name a regular file");
    assert_refused(&of_device(folder.path()), "is a directory; name a block device");

    let _socket = UnixListener::bind(at("socket")).unwrap();
    assert_refused(&of_image(&at("socket")), "is a socket; name a regular file");
    host::run("mkfifo", &[at("fifo").to_str().unwrap()]).unwrap();
    assert_refused(&of_image(&at("fifo")), "is a FIFO; name a regular file");
    assert_refused(&of_device(&at("fifo")), "is a FIFO; name a block device");
    let null = Path::new("/dev/null");
    assert_refused(&of_image(null), "is a character device; name a regular file");

    let file = image(SIZE);
    assert_refused(&of_device(file.path()), "is a regular file; name it by image instead of block");
}

#[test]
fn sizes_are_whole_blocks() {
    let _alone = alone();
    let file = image(0);
    let path = file.path();
    let remedy = format!("is empty; give it a size, as with truncate -s 1G {}", path.display());
    assert_refused(&of_image(path), &remedy);
    file.as_file().set_len(1000).unwrap();
    assert_refused(
        &of_image(path),
        &format!(
            "has 1000 bytes, which is not a multiple of 512; extend it, as with truncate -s %512 {}",
            path.display()
        ),
    );
    file.as_file().set_len(1536).unwrap();
    open(&of_image(path));
    let of_4096 = DiskSpec { block_size: Some(4096), ..of_image(path) };
    assert!(refusal(&of_4096).contains("not a multiple of 4096; extend it"));
    file.as_file().set_len(8192).unwrap();
    open(&of_4096);
    let physical = DiskSpec { physical_block_size: Some(512), ..of_4096 };
    assert!(refusal(&physical).contains("set physical_block_size to 4096 or more"));
}

#[test]
fn an_image_is_found_by_its_link() {
    let _alone = alone();
    let file = image(SIZE);
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink(file.path(), &link).unwrap();
    let _first = open(&of_image(&link));
    assert!(refusal(&of_image(file.path())).contains("is in use"));
}

/// Root may do anything, so somebody else has to try.
#[test]
fn permissions_are_told() {
    let _alone = alone();
    let file = image(SIZE);
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o444)).unwrap();
    let Some(said) = as_nobody("opens_for_another", file.path()) else { return };
    assert!(said.contains("permission denied; change its permissions"), "{said}");
    let Some(said) = as_nobody("opens_read_only_for_another", file.path()) else { return };
    assert!(said.contains("opened"), "{said}");
}

#[test]
fn a_check_leaves_everything_as_it_was() {
    let _alone = alone();
    let file = image(SIZE);
    let before = file.as_file().metadata().unwrap();
    lun::check(&unit(&of_image(file.path()))).unwrap();
    let after = file.as_file().metadata().unwrap();
    let times = |it: &fs::Metadata| (it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec());
    assert_eq!(times(&before), times(&after));
    assert_eq!(before.blocks(), after.blocks());
    open(&of_image(file.path()));
    let holder = open(&of_image(file.path()));
    refusal(&of_image(file.path()));
    drop(holder);
    open(&of_image(file.path()));
}

/// Each line and column: a writer, a reader, and both shared; whether one goes with the other.
#[test]
fn who_may_share_an_image_with_whom() {
    let _alone = alone();
    let file = image(SIZE);
    let writer = of_image(file.path());
    let reader = read_only(&writer);
    let kinds = [&writer, &reader, &shared(&writer), &shared(&reader)];
    let goes = [
        [false, false, false, true],
        [false, true, false, true],
        [false, false, true, true],
        [true, true, true, true],
    ];
    for (first, row) in kinds.iter().zip(goes) {
        for (second, goes) in kinds.iter().zip(row) {
            let _held = open(first);
            if goes {
                open(second);
            } else {
                assert!(refusal(second).contains("is in use by another logical unit"));
            }
        }
    }
}

#[test]
fn a_killed_process_leaves_no_lock() {
    let _alone = alone();
    let file = image(SIZE);
    let mut child = holder("holds_until_killed", file.path());
    let refused = refusal(&of_image(file.path()));
    let by = format!("(process {})", child.id());
    assert!(refused.contains(&by) && refused.contains("set shared = true"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(&of_image(file.path()));
}

/// QEMU's writer and reader, byte by byte (its `block/file-posix.c`).
#[test]
fn the_bytes_are_those_that_qemu_locks() {
    let _alone = alone();
    let file = image(SIZE);
    let bytes = |spec: &DiskSpec| {
        let _held = lun::open(&unit(spec)).unwrap();
        locked_bytes(file.path())
    };
    let writer = of_image(file.path());
    assert_eq!(bytes(&writer), [100, 101, 201, 203]);
    assert_eq!(bytes(&read_only(&writer)), [100, 201, 203]);
    assert_eq!(bytes(&shared(&writer)), [100, 101, 203]);
    assert_eq!(bytes(&shared(&read_only(&writer))), [100, 203]);
}

/// The bytes of a file that this process has locked.
fn locked_bytes(path: &Path) -> Vec<u32> {
    let inode = format!(":{}", path.metadata().unwrap().ino());
    let mut bytes = Vec::new();
    for line in fs::read_to_string("/proc/locks").unwrap().lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [.., "READ", "-1", file, start, end] = words[..]
            && file.ends_with(&inode)
        {
            bytes.extend(start.parse::<u32>().unwrap()..=end.parse::<u32>().unwrap());
        }
    }
    bytes.sort_unstable();
    bytes
}

/// QEMU itself, where it is installed: each refuses what the other has.
#[test]
fn qemu_and_we_keep_off_each_others_images() {
    let _alone = alone();
    const QEMU: &str = "qemu-system-x86_64";
    if host::run(QEMU, &["--version"]).is_err() {
        eprintln!("skipped: there is no {QEMU}");
        return;
    }
    let file = image(SIZE);
    let writer = of_image(file.path());
    let (reader, sharer) = (read_only(&writer), shared(&writer));
    for (device, ours) in [
        ("", [(&writer, false), (&reader, false), (&sharer, false)]),
        ("readonly=on", [(&writer, false), (&reader, true), (&sharer, false)]),
        ("share-rw=on", [(&writer, false), (&reader, false), (&sharer, true)]),
    ] {
        for (spec, goes) in ours {
            let _held = lun::open(&unit(spec)).unwrap();
            let said = qemu(QEMU, file.path(), device);
            assert_eq!(said.is_ok(), goes, "QEMU {device} beside {spec:?}: {said:?}");
        }
        let held = qemu(QEMU, file.path(), device).unwrap();
        for (spec, goes) in ours {
            assert_eq!(lun::check(&unit(spec)).is_ok(), goes, "{spec:?} beside QEMU {device}");
            let opened = lun::open(&unit(spec));
            assert_eq!(opened.is_ok(), goes, "{spec:?} beside QEMU {device}");
            if let Err(error) = opened {
                let by = format!("(process {})", held.0.id());
                assert!(error.why().contains(&by), "{error}");
            }
        }
    }
}

/// A running QEMU, paused before its first instruction.
#[derive(Debug)]
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn qemu(program: &str, image: &Path, option: &str) -> Result<Qemu, String> {
    let readonly = if option == "readonly=on" { "on" } else { "off" };
    let share = if option == "share-rw=on" { "on" } else { "off" };
    let drive = format!(
        "if=none,id=d,format=raw,file.driver=file,file.filename={},readonly={readonly}",
        image.display()
    );
    let mut child = Command::new(program)
        .args(["-S", "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-qmp", "stdio", "-device", "virtio-scsi-pci", "-drive", &drive])
        .args(["-device", &format!("scsi-hd,drive=d,share-rw={share}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It answers once its devices are there.
    child.stdin.as_mut().unwrap().write_all(b"{'execute': 'qmp_capabilities'}\n").unwrap();
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    if output.lines().any(|line| line.unwrap().contains("return")) {
        return Ok(Qemu(child));
    }
    let output = child.wait_with_output().unwrap();
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn direct_is_refused_where_it_cannot_be() {
    let _alone = alone();
    // A file system without direct I/O that every host has.
    let spec = DiskSpec { direct: true, ..read_only(&of_image(Path::new("/proc/version"))) };
    assert_refused(&spec, "is on a file system without direct I/O; set direct = false, or move it");
    let Some(device) = Loop::attach(SIZE, &["--sector-size", "4096"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::new(&device, folder.path()) else { return };
    let path = folder.path().join("image");
    File::create(&path).unwrap().set_len(8192).unwrap();
    let of_512 = DiskSpec { direct: true, ..of_image(&path) };
    assert!(refusal(&of_512).contains("set block_size = 4096, or direct = false"));
    let of_4096 = DiskSpec { block_size: Some(4096), ..of_512 };
    open(&of_4096);
}

/// A file system on a device.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(device: &Loop, at: &'a Path) -> Option<Mounted<'a>> {
        let path = device.device.to_str().unwrap();
        let mounted = host::run("mkfs.ext4", &["-q", "-O", "^has_journal", path])
            .and_then(|_| host::run("mount", &[path, at.to_str().unwrap()]));
        if let Err(why) = mounted {
            assert!(env::var_os("VMM_REQUIRE_LOOP").is_none(), "no file system: {why}");
            eprintln!("skipped: no file system: {why}");
            return None;
        }
        Some(Mounted(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        host::run("umount", &[self.0.to_str().unwrap()]).unwrap();
    }
}

#[test]
fn a_device_is_named_as_one() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    assert_refused(
        &of_image(&device.device),
        "is a block device; name it by block instead of image",
    );
}

#[test]
fn a_mounted_device_is_refused() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let claimed = "is mounted, or taken by LVM, md, device mapper or another program; unmount or \
                   release it, or name the volume that is made of it";
    let spec = of_device(&device.device);
    {
        let Some(_mounted) = Mounted::new(&device, folder.path()) else { return };
        assert_refused(&spec, claimed);
        assert_refused(&read_only(&spec), claimed);
    }
    open(&spec);
}

#[test]
fn a_disk_is_refused_while_its_partition_is_taken() {
    let _alone = alone();
    let Some(mut device) = Loop::attach(4 << 20, &["--partscan"]) else { return };
    let first = of_device(&device.partition(2048, 1024));
    let second = of_device(&device.partition(4096, 1024));
    let _first = open(&first);
    assert!(refusal(&of_device(&device.device)).contains("is mounted, or taken by"));
    open(&second);
}

#[test]
fn a_member_of_a_volume_is_refused_and_the_volume_is_not() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let name = format!("vmm-test-{}", process::id());
    let table = format!("0 {} linear {} 0", SIZE / 512, device.device.display());
    if let Err(why) = host::run("dmsetup", &["create", &name, "--table", &table]) {
        eprintln!("skipped: no device mapper: {why}");
        return;
    }
    // Where there is no udev, nobody else makes its node.
    host::run("dmsetup", &["mknodes", &name]).unwrap();
    let volume = Path::new("/dev/mapper").join(&name);
    let member = lun::open(&unit(&of_device(&device.device))).map(drop);
    let opened = [false, true].map(|direct| {
        let options = Options { direct, ..Options::default() };
        BlockDevice::open(&volume, &options).map(|it| it.geometry().blocks)
    });
    host::run("dmsetup", &["remove", &name]).unwrap();
    assert!(member.unwrap_err().to_string().contains("is mounted, or taken by LVM, md, device"));
    for blocks in opened {
        assert_eq!(blocks.unwrap(), SIZE / 512);
    }
}

/// On whatever disks the host has, which are only looked at.
#[test]
fn a_device_has_the_topology_that_its_kernel_states() {
    let _alone = alone();
    let options = Options { read_only: true, shared: true, ..Options::default() };
    for disk in fs::read_dir("/sys/block").unwrap().flatten() {
        let device = Path::new("/dev").join(disk.file_name());
        let Ok(opened) = BlockDevice::open(&device, &options) else { continue };
        let stated = |attribute: &str| -> u32 {
            let value = fs::read_to_string(disk.path().join(attribute)).unwrap();
            value.trim_end().parse().unwrap_or(0)
        };
        let topology = opened.topology();
        eprintln!("{}: {topology:?}", device.display());
        assert_eq!(topology.physical_block_size, stated("queue/physical_block_size"));
        assert_eq!(topology.alignment_offset, stated("alignment_offset"));
        assert_eq!(opened.geometry().block_size, stated("queue/logical_block_size"));
    }
}

/// On whatever zoned devices the host has.
#[test]
fn host_managed_zones_are_refused() {
    let _alone = alone();
    let mut seen = 0;
    for disk in fs::read_dir("/sys/block").unwrap().flatten() {
        let zoned = fs::read_to_string(disk.path().join("queue/zoned")).unwrap_or_default();
        if zoned.trim_end() == "host-managed" {
            let device = Path::new("/dev").join(disk.file_name());
            let refused = refusal(&of_device(&device));
            assert!(refused.contains("is a host-managed zoned device"), "{refused}");
            seen += 1;
        }
    }
    eprintln!("{seen} host-managed zoned devices");
}

#[test]
fn a_device_has_one_user_unless_it_is_shared() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let spec = of_device(&device.device);
    let held = open(&spec);
    assert!(refusal(&spec).contains("is in use by another logical unit of this guest; end"));
    assert!(refusal(&shared(&spec)).contains("is in use by another logical unit of this guest"));
    drop(held);
    let _first = open(&shared(&spec));
    open(&shared(&spec));
    open(&shared(&read_only(&spec)));
    assert!(refusal(&spec).contains("is in use by another logical unit"));
}

#[test]
fn a_device_that_takes_no_writes_is_for_reading() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &["--read-only"]) else { return };
    let spec = of_device(&device.device);
    assert_refused(&spec, "takes no writes; set read_only = true");
    open(&read_only(&spec));
}

/// It is supported: the medium alone is what does not let it happen.
#[test]
fn unmap_is_refused_as_a_write_where_the_medium_is_for_reading() {
    let _alone = alone();
    let (image, device) = (image(SIZE), Loop::attach(SIZE, &[]));
    let device = device.as_ref().map(|device| of_device(&device.device));
    for spec in [Some(of_image(image.path())), device].into_iter().flatten() {
        let kept = DiskSpec { discard: false, ..read_only(&spec) };
        for (spec, code) in [
            (read_only(&spec), SenseCode::WRITE_PROTECTED),
            (kept, SenseCode::INVALID_COMMAND_OPERATION_CODE),
        ] {
            let mut io = IoContext::inline();
            let mut initiator = Initiator::new(&mut io);
            let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
            let (place, task) = initiator.task(&unmap, &[0; 24], 0);
            initiator.took(open(&spec).submit(task, &mut io));
            let refused = Response::check_condition(code, 24);
            assert_eq!(initiator.answered[&place].0, refused, "{:?}", spec.backing);
        }
    }
}

#[test]
fn blocks_are_made_of_the_devices_blocks() {
    let _alone = alone();
    let Some(small) = Loop::attach(SIZE, &[]) else { return };
    let Some(large) = Loop::attach(SIZE, &["--sector-size", "4096"]) else { return };
    let block_size = |device: &Loop, block_size| {
        let options = Options { block_size, ..Options::default() };
        BlockDevice::open(&device.device, &options).map(|it| it.geometry().block_size)
    };
    assert_eq!(block_size(&small, None).unwrap(), 512);
    assert_eq!(block_size(&small, Some(4096)).unwrap(), 4096);
    assert_eq!(block_size(&large, None).unwrap(), 4096);
    let of_512 = DiskSpec { block_size: Some(512), ..of_device(&large.device) };
    assert_refused(
        &of_512,
        "has blocks of 4096 bytes, which blocks of 512 bytes cannot be made of; set block_size = \
         4096, or leave it out",
    );
    let Some(odd) = Loop::attach(SIZE + 512, &[]) else { return };
    assert!(matches!(
        block_size(&odd, Some(4096)),
        Err(OpenError::PartialBlock { kind: Kind::BlockDevice, .. })
    ));
}

#[test]
fn a_device_without_a_medium_is_empty() {
    let _alone = alone();
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let empty = image(512);
    let path = empty.path().to_str().unwrap();
    let Ok(node) = host::run("losetup", &["--find", "--show", path]) else { return };
    host::run("losetup", &["--detach", &node]).unwrap();
    // Somebody else may attach it at once; its size is then not 0.
    if let Err(error) = lun::check(&unit(&read_only(&of_device(Path::new(&node))))) {
        assert!(error.to_string().contains("is empty; give the device a medium"), "{error}");
    }
    drop(device);
}

#[test]
fn what_is_punched_is_given_back() {
    let _alone = alone();
    let file = image(SIZE);
    fs::write(file.path(), vec![7; 1 << 20]).unwrap();
    let raw = RawFile::open(file.path(), &Options::default()).unwrap();
    let Some(granularity) = raw.provisioning().unmap_granularity else {
        eprintln!("skipped: no holes on this file system");
        return;
    };
    raw.flush().unwrap();
    let blocks = || file.as_file().metadata().unwrap().blocks();
    let before = blocks();
    raw.unmap(u64::from(granularity), SIZE / 2).unwrap();
    raw.flush().unwrap();
    assert!(blocks() <= before - SIZE / 2 / 512, "{before} blocks, then {}", blocks());
    assert_eq!(file.as_file().metadata().unwrap().len(), SIZE, "the size stays");
}

#[test]
fn an_opened_image_that_punches_has_lost_nothing() {
    let _alone = alone();
    for size in [512, 4096, 5120] {
        let file = image(size);
        let bytes = vec![9; usize::try_from(size).unwrap()];
        fs::write(file.path(), &bytes).unwrap();
        open(&of_image(file.path()));
        assert_eq!(fs::read(file.path()).unwrap(), bytes);
    }
}

// ---- other processes: this program again, for one of the tests below --------------------------

const PATH: &str = "VMM_TEST_PATH";

fn again(test: &str, path: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(PATH, path);
    command
}

/// A process that has opened `path`.
fn holder(test: &str, path: &Path) -> Child {
    let mut child = again(test, path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("opened")));
    child
}

/// What a process says that is not root's; `None` where there can be none.
fn as_nobody(test: &str, path: &Path) -> Option<String> {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let (program, image) = (folder.path().join("program"), folder.path().join("image"));
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    fs::copy(path, &image).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(PATH, &image);
    match command.uid(65534).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            eprintln!("skipped: not root: {error}");
            None
        }
    }
}

fn given() -> Option<DiskSpec> {
    Some(of_image(Path::new(&env::var_os(PATH)?)))
}

#[test]
#[ignore = "is run by other tests"]
fn holds_until_killed() {
    let Some(spec) = given() else { return };
    let _held = lun::open(&unit(&spec)).unwrap();
    println!("opened");
    let _ = std::io::stdin().lines().count();
    process::exit(1);
}

#[test]
#[ignore = "is run by other tests"]
fn opens_for_another() {
    if let Some(spec) = given() {
        println!("{}", refusal(&spec));
    }
}

#[test]
#[ignore = "is run by other tests"]
fn opens_read_only_for_another() {
    if let Some(spec) = given() {
        open(&read_only(&spec));
        println!("opened");
    }
}

#[test]
fn a_lock_of_others_on_other_bytes_is_none_of_ours() {
    let _alone = alone();
    let file = image(SIZE);
    let other = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    other.lock().unwrap();
    open(&of_image(file.path()));
}
