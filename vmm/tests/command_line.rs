//! What the command line says before anything starts.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use storage::backend::{Options, RawFile};
use tempfile::TempDir;
use tests::terminal::Terminal;
use tests::tiny;

fn vmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmm")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const BOOT: &str = "[boot]\nkernel = 'kernel'\n";
const LUN: &str = "[[controller]]\n[[controller.lun]]\nimage = 'disk.img'\n";

/// A folder with a kernel and a disk, where everybody may look.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("kernel"), tiny::bzimage(&tiny::SPIN)).unwrap();
        fs::write(folder.path().join("disk.img"), [0; 4096]).unwrap();
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the configuration; gives the command that runs it.
    fn configure(&self, text: &str) -> Command {
        fs::write(self.path("guest.toml"), text).unwrap();
        self.with_program(Command::new(env!("CARGO_BIN_EXE_vmm")))
    }

    fn with_program(&self, mut command: Command) -> Command {
        command.arg("--config").arg(self.path("guest.toml"));
        command
    }

    /// Each file with its size, its mode, and when it was changed.
    fn state(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut state: Vec<String> = names
            .map(|entry| {
                let entry = entry.unwrap();
                let file = entry.metadata().unwrap();
                let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
                format!("{:?} {:o} {} {times:?}", entry.file_name(), file.mode(), file.size())
            })
            .collect();
        state.sort();
        state
    }

    /// The lines that `command` says with and without `--check`, the folder's name left out. It
    /// ends with status 2 and leaves everything as it was.
    fn refusal(&self, mut command: Command) -> Vec<String> {
        let before = self.state();
        let said = [command.output().unwrap(), command.arg("--check").output().unwrap()];
        assert_eq!(self.state(), before);
        let said = said.map(|output| {
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert_eq!(text(&output.stdout), "");
            stderr.replace(&format!("{}/", self.0.path().display()), "")
        });
        assert_eq!(said[0], said[1]);
        said[0].lines().map(str::to_owned).collect()
    }
}

#[test]
fn help_and_version_are_exit_0() {
    let help = vmm(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--config <FILE>"));
    let version = vmm(&["--version"]);
    let expected = format!("vmm {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((version.status.code(), text(&version.stdout)), (Some(0), expected));
}

#[test]
fn a_bad_command_line_is_exit_2() {
    for arguments in [&[][..], &["--nonsense"], &["guest.toml"], &["--check"]] {
        let output = vmm(arguments);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    }
}

#[test]
fn a_device_that_cannot_be_probed_is_exit_2() {
    let help = vmm(&["probe", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--json"));
    for (path, why) in [
        ("/dev/null", "/dev/null is not a SCSI device; name a /dev/sg or /dev/sd node"),
        ("/none", "/none cannot be opened: no such file; attach the device, or correct the path"),
        ("/no\u{1b}ne", "/no\\u{1b}ne cannot be opened"),
    ] {
        let output = vmm(&["probe", path]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
        assert!(said.starts_with(why) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_its_place() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    let config = "[machine]\nvcpu = 2\nmemory = \"1 GB\"\n[boot]\nkernel = \"vmlinuz\"\n\
                  [[controller]]\nvhost = \"x\"\n[[controller.lun]]\nimage = \"none.img\"\n";
    let lines = folder.refusal(folder.configure(config));
    let starts = ["2:1: ", "3:10: ", "5:10: ", "7:1: ", "9:9: "];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(&format!("guest.toml:{start}")), "{line:?}");
    }
    assert!(lines[3].contains("not supported yet"), "{lines:?}");
}

#[test]
fn bad_input_of_every_kind_is_one_line_that_says_what_to_do() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("odd.img"), [0; 1000]).unwrap();
    fs::write(folder.path("empty.img"), []).unwrap();
    fs::write(folder.path("large"), tiny::bzimage(&tiny::SPIN)).unwrap();
    // A kernel that unpacks itself into 64 MiB (init_size of the boot protocol).
    let mut large = tiny::bzimage(&tiny::SPIN);
    large[0x260..0x264].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    fs::write(folder.path("large"), large).unwrap();
    symlink("nowhere", folder.path("dangling")).unwrap();
    let lun = |image| format!("{BOOT}[[controller]]\n[[controller.lun]]\nimage = '{image}'\n");
    let small = "[machine]\nmemory = '64M'\n[boot]\nkernel = 'large'\n";
    for (config, start, why, remedy) in [
        (lun("none.img"), "5:9: ", "no such file", "create it, or correct the path"),
        (lun("dangling"), "5:9: ", "no such file", "create it, or correct the path"),
        (lun("folder"), "5:9: ", "is a directory", "name a regular file"),
        (lun("/dev/zero"), "5:9: ", "is a character device", "name a regular file"),
        (lun("odd.img"), "5:9: ", "not a multiple of 512", "truncate -s %512 odd.img"),
        (lun("empty.img"), "5:9: ", "is empty", "truncate -s 1G empty.img"),
        (
            format!("{BOOT}{LUN}block_size = 4096\n").replace("disk", "odd"),
            "6:14: ",
            "with the image at line 5: odd.img has 1000 bytes, which is not a multiple of 4096",
            "truncate -s %4096 odd.img",
        ),
        (
            format!("{BOOT}{LUN}lun = 0\n[[controller.lun]]\nimage = 'disk2.img'\nlun = 0\n"),
            "9:7: ",
            "target 0 lun 0: used already at line 6",
            "a place of its own",
        ),
        (
            format!("[boot]\nkernel = 'disk.img'\n{LUN}"),
            "2:10: ",
            "it is neither a bzImage nor an ELF file",
            "name a bzImage",
        ),
        (format!("{small}{LUN}"), "2:10: ", "too little for the kernel at line 4", "more memory"),
        (
            format!("{BOOT}initramfs = 'none'\n{LUN}"),
            "3:13: ",
            "no such file",
            "create it, or correct the path",
        ),
    ] {
        fs::write(folder.path("disk2.img"), [0; 512]).unwrap();
        let lines = folder.refusal(folder.configure(&config));
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with(&format!("guest.toml:{start}")), "{line}");
        assert!(line.contains(why) && line.contains(remedy), "{line}");
    }
}

#[test]
fn a_configuration_may_come_by_a_pipe_but_not_by_a_fifo_that_nobody_writes_to() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    let here = folder.0.path().display();
    let config = format!("{BOOT}{LUN}").replace(" = '", &format!(" = '{here}/"));
    drop(folder.configure(&config));
    let check = |source: &str| {
        let program = env!("CARGO_BIN_EXE_vmm");
        let line = format!("cd {here} && timeout 60 {program} --check --config {source}");
        Command::new("bash").args(["-c", &line]).output().unwrap()
    };
    for source in ["<(sleep 0.1; cat guest.toml)", "/dev/stdin < guest.toml"] {
        let output = check(source);
        assert_eq!(output.status.code(), Some(0), "{source}: {}", text(&output.stderr));
    }
    assert!(Command::new("mkfifo").arg(folder.path("fifo")).status().unwrap().success());
    let output = check("fifo");
    let line = "fifo: is a FIFO; name a regular file, or /dev/stdin\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), line));
}

#[test]
fn an_image_that_somebody_has_is_bad_input() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    let command = folder.configure(&format!("{BOOT}{LUN}"));
    let holder = RawFile::open(&folder.path("disk.img"), &Options::default()).unwrap();
    let lines = folder.refusal(command);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let start = "guest.toml:5:9: controller.lun.image: disk.img is in use by command_line";
    assert!(line.starts_with(start), "{line}");
    assert!(line.ends_with("; end that use, or set shared = true for each of its users"), "{line}");
    drop(holder);
}

#[test]
fn too_few_file_descriptors_are_bad_input() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    drop(folder.configure(&format!("{BOOT}{LUN}")));
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_vmm")]);
    let lines = folder.refusal(folder.with_program(limited));
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(line.starts_with("file descriptors: the guest needs "), "{line}");
    assert!(line.contains("this process may have 40; raise the hard limit"), "{line}");
}

/// As nobody, who can do little; `None` where this user cannot become that one.
fn as_nobody(command: &mut Command) -> bool {
    const NOBODY: u32 = 65534;
    command.uid(NOBODY).gid(NOBODY);
    let able = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !able {
        eprintln!("skipped: only root can become nobody");
    }
    able
}

/// A copy of the program where everybody can run it.
fn public_program(folder: &Folder) -> Command {
    let program = folder.path("vmm");
    // Not by this process: a child of another test could hold the file open for writing, and then
    // it cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_vmm")).arg(&program).status();
    assert!(copied.unwrap().success());
    Command::new(program)
}

#[test]
fn what_this_user_may_not_use_is_bad_input() {
    let folder = Folder::new();
    fs::write(folder.path("secret"), tiny::bzimage(&tiny::SPIN)).unwrap();
    fs::write(folder.path("secret.img"), [0; 512]).unwrap();
    for name in ["secret", "secret.img"] {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = "[boot]\nkernel = 'secret'\n[console]\nserial = { file = 'log' }\n\
                  [[controller]]\n[[controller.lun]]\nimage = 'secret.img'\nread_only = true\n\
                  [[controller.lun]]\nimage = 'disk.img'\n";
    drop(folder.configure(config));
    let mut command = folder.with_program(public_program(&folder));
    if !as_nobody(&mut command) {
        return;
    }
    let mut lines = folder.refusal(command);
    // Whether nobody may use KVM is this machine's business.
    lines.retain(|line| !line.starts_with("/dev/kvm"));
    let starts =
        ["2:10: boot.kernel", "4:10: console.serial", "7:9: controller.lun.image", "10:9: "];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(&format!("guest.toml:{start}")), "{line}");
        let denied = "permission denied; change its permissions, or run as another user";
        assert!(line.ends_with(denied), "{line}");
    }
}

#[test]
fn a_kvm_that_this_user_may_not_use_is_bad_input() {
    let folder = Folder::new();
    fs::set_permissions(folder.path("disk.img"), fs::Permissions::from_mode(0o666)).unwrap();
    drop(folder.configure(&format!("{BOOT}{LUN}")));
    let mut command = folder.with_program(public_program(&folder));
    if !as_nobody(&mut command) {
        return;
    }
    let mode = fs::metadata("/dev/kvm").map(|kvm| kvm.mode());
    if mode.is_ok_and(|mode| mode & 0o006 == 0) {
        let lines = folder.refusal(command);
        let denied = "/dev/kvm: cannot be used: Permission denied (os error 13); add this user to \
                      the group that owns it (kvm)";
        assert_eq!(lines, [denied]);
    }
}

#[test]
fn no_kvm_is_bad_input() {
    let folder = Folder::new();
    drop(folder.configure(&format!("{BOOT}{LUN}")));
    let hide = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
        command.arg(program);
        command
    };
    if !hide("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: /dev cannot be hidden from a process");
        return;
    }
    let lines = folder.refusal(folder.with_program(hide(env!("CARGO_BIN_EXE_vmm"))));
    let missing = "/dev/kvm: cannot be used: No such file or directory (os error 2); load \
                   kvm_intel or kvm_amd, and enable virtualisation in the firmware";
    assert_eq!(lines, [missing]);
}

#[test]
fn a_bad_configuration_leaves_the_terminal_alone() {
    let folder = Folder::new();
    let mut command = folder.configure("[boot]\n");
    let terminal = Terminal::new().unwrap();
    terminal.attach(&mut command).unwrap();
    let before = terminal.mode().unwrap();
    assert_eq!(command.output().unwrap().status.code(), Some(2));
    assert_eq!(terminal.mode().unwrap(), before);
}

#[test]
fn a_good_configuration_is_told_with_its_identities_and_nothing_changes() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = Folder::new();
    let config = format!(
        "[console]\nserial = {{ file = 'log' }}\n{BOOT}{LUN}[[controller.lun]]\ntarget = 2\n\
         image = 'other.img'\nwwn = '5001438012345678'\nserial = 'S 1'\n"
    );
    fs::write(folder.path("other.img"), [0; 512]).unwrap();
    let mut command = folder.configure(&config);
    // Old enough that the kernel would renew the times of access.
    let old = SystemTime::now() - Duration::from_secs(10 * 24 * 60 * 60);
    let names = ["guest.toml", "kernel", "disk.img", "other.img"];
    for name in names {
        let file = File::options().write(true).open(folder.path(name)).unwrap();
        file.set_times(FileTimes::new().set_accessed(old)).unwrap();
    }
    let accessed = || names.map(|name| fs::metadata(folder.path(name)).unwrap().atime());
    let last = accessed();
    let before = folder.state();
    let output = command.arg("--check").output().unwrap();
    assert_eq!((folder.state(), accessed()), (before, last));
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let told = text(&output.stdout).replace(&format!("{}/", folder.0.path().display()), "");
    let lines: Vec<&str> = told.lines().collect();
    let [first, lun0, lun1] = lines.as_slice() else { panic!("{told}") };
    let start = "guest.toml: OK: guest guest, uuid d81f1d53-bdf8-5e87-b6fc-5f97f76eabdd, 1 vCPU, \
                 512 MiB, up to ";
    assert!(first.starts_with(start), "{first}");
    assert_eq!(*lun1, "scsi0 target 2 lun 0: wwn naa.5001438012345678, serial \"S 1\", other.img");
    assert!(lun0.starts_with("scsi0 target 0 lun 0: wwn naa.3"), "{lun0}");
}
