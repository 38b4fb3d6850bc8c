//! The line that is said about each thing that a configuration may have wrong, besides
//! controllers.

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;

use super::{BOOT, Fixture, LUN, each_has_one_problem};

#[test]
fn sections_and_keys() {
    each_has_one_problem(&[
        (
            "mac = 1\n{BOOT}{LUN}",
            "1:1: unknown key \"mac\": it would have no effect; there are machine, boot, \
             console, controller",
        ),
        (
            "[machin]\n{BOOT}{LUN}",
            "1:2: unknown key \"machin\": it would have no effect; did you mean \"machine\"?",
        ),
        ("machine = 3\n{BOOT}{LUN}", "1:11: machine = 3: not a table; write [machine]"),
        ("[[machine]]\n{BOOT}{LUN}", "1:1: machine = […]: not a table; write [machine]"),
        ("{BOOT}", "1:1: [[controller]]: missing; add at least one, with the guest's disks"),
        (
            "controller = []\n{BOOT}",
            "1:1: [[controller]]: missing; add at least one, with the guest's disks",
        ),
        (
            "{BOOT}[controller]\n",
            "3:1: controller = {…}: not an array of tables; write [[controller]]",
        ),
        (
            "controller = [1]\n{BOOT}",
            "1:14: controller = […]: not an array of tables; write [[controller]]",
        ),
        (
            "{BOOT}[[controller.lun]]\nimage = 'a.raw'",
            "3:3: controller = {…}: not an array of tables; write [[controller]]",
        ),
        ("{LUN}", "1:1: [boot]: missing; add it, with the kernel to boot"),
        ("boot = 'vmlinuz'\n{LUN}", "1:8: boot = \"vmlinuz\": not a table; write [boot]"),
        ("[boot]\n{LUN}", "1:1: boot.kernel: missing; add the path of a kernel"),
        ("[control]\nsocket = 'x'\n{BOOT}{LUN}", "1:2: control: not supported yet; remove it"),
        ("[sandbox]\n{BOOT}{LUN}", "1:2: sandbox: not supported yet; remove it"),
        ("{BOOT}{LUN}[[net]]\ntap = 'tap0'", "6:3: net: not supported yet; remove it"),
        ("{BOOT}{LUN}[[vfio]]", "6:3: vfio: not supported yet; remove it"),
    ]);
}

#[test]
fn machine_keys() {
    each_has_one_problem(&[
        (
            "[machine]\nname = ''\n{BOOT}{LUN}",
            "2:8: machine.name = \"\": not a name; use at most 64 of A-Z, a-z, 0-9, '-', '_' and \
             '.', with a letter or digit first",
        ),
        (
            "[machine]\nname = '../x'\n{BOOT}{LUN}",
            "2:8: machine.name = \"../x\": not a name; use at most 64 of A-Z, a-z, 0-9, '-', '_' \
             and '.', with a letter or digit first",
        ),
        (
            "[machine]\nname = 7\n{BOOT}{LUN}",
            "2:8: machine.name = 7: not a string; write it in quotes",
        ),
        (
            "[machine]\nuuid = 'x'\n{BOOT}{LUN}",
            "2:8: machine.uuid = \"x\": not a UUID; write 32 hex digits as in \
             \"123e4567-e89b-12d3-a456-426614174000\"",
        ),
        (
            "[machine]\nvcpus = 65\n{BOOT}{LUN}",
            "2:9: machine.vcpus = 65: out of range; write an integer from 1 to 64",
        ),
        (
            "[machine]\nvcpus = -1\n{BOOT}{LUN}",
            "2:9: machine.vcpus = -1: out of range; write an integer from 1 to 64",
        ),
        (
            "[machine]\nvcpus = 'two'\n{BOOT}{LUN}",
            "2:9: machine.vcpus = \"two\": not an integer; write an integer from 1 to 64",
        ),
        (
            "[machine]\nmemory = '63MiB'\n{BOOT}{LUN}",
            "2:10: machine.memory = \"63MiB\": out of range; give the guest from 64MiB to 64TiB",
        ),
        (
            "[machine]\nmemory = 67108865\n{BOOT}{LUN}",
            "2:10: machine.memory = 67108865: not a multiple of 4 KiB; write \"65540KiB\"",
        ),
        (
            "[machine]\nmemory = '65T'\n{BOOT}{LUN}",
            "2:10: machine.memory = \"65T\": out of range; give the guest from 64MiB to 64TiB",
        ),
        (
            "[machine]\nmemory = '99999999T'\n{BOOT}{LUN}",
            "2:10: machine.memory = \"99999999T\": not a size of less than 16 EiB; write an \
             integer of bytes, or a string such as \"512MiB\" (K, M, G or T, binary, with an \
             optional iB)",
        ),
        (
            "[machine]\nmemory_backing = 'huge'\n{BOOT}{LUN}",
            "2:18: machine.memory_backing = \"huge\": no such choice; use \"anonymous\" \
             or \"prealloc\" or \"hugepages\"",
        ),
        (
            "[machine]\non_reboot = 'reboot'\n{BOOT}{LUN}",
            "2:13: machine.on_reboot = \"reboot\": no such choice; use \"restart\" or \"exit\"",
        ),
        (
            "[machine]\non_crash = true\n{BOOT}{LUN}",
            "2:12: machine.on_crash = true: no such choice; use \"exit\" or \"restart\"",
        ),
        (
            "[machine]\nstop_timeout = 60\n{BOOT}{LUN}",
            "2:16: machine.stop_timeout = 60: not a time; write a string such as \"60s\" (ms, s, \
             m or h)",
        ),
        (
            "[machine]\nstop_timeout = '25h'\n{BOOT}{LUN}",
            "2:16: machine.stop_timeout = \"25h\": out of range; write a time from \"1ms\" to \
             \"24h\"",
        ),
        (
            "[machine]\ncores = 2\n{BOOT}{LUN}",
            "2:1: unknown key \"cores\" in [machine]: it would have no effect; there are name, \
             uuid, vcpus, memory, memory_backing, on_reboot, on_crash, stop_timeout",
        ),
    ]);
}

#[test]
fn boot() {
    each_has_one_problem(&[
        (
            "[boot]\nkernel = 'none'\n{LUN}",
            "2:10: boot.kernel = \"none\": none cannot be opened: no such file; create it, or \
             correct the path",
        ),
        (
            "[boot]\nkernel = '.'\n{LUN}",
            "2:10: boot.kernel = \".\": . is a directory; name a regular file",
        ),
        (
            "[boot]\nkernel = '/dev/null'\n{LUN}",
            "2:10: boot.kernel = \"/dev/null\": /dev/null is a character device; name a regular \
             file",
        ),
        (
            "[boot]\nkernel = ''\n{LUN}",
            "2:10: boot.kernel = \"\": not a path; write the path of a file",
        ),
        (
            "[boot]\nkernel = 'a.raw/x'\n{LUN}",
            "2:10: boot.kernel = \"a.raw/x\": a.raw/x cannot be opened: Not a directory (os \
             error 20); correct the path",
        ),
        (
            "{BOOT}initramfs = 'none'\n{LUN}",
            "3:13: boot.initramfs = \"none\": none cannot be opened: no such file; create it, or \
             correct the path",
        ),
        (
            "{BOOT}cmdline = \"a\\nb\"\n{LUN}",
            "3:11: boot.cmdline = \"a\\nb\": not a kernel command line; use at most 2047 \
             printable ASCII characters",
        ),
        (
            "[boot]\nkernel = 'a.raw'\n{LUN}",
            "2:10: boot.kernel = \"a.raw\": a.raw cannot be booted: it is neither a bzImage \
             nor an ELF file; name a bzImage or an ELF vmlinux for x86-64, not compressed",
        ),
    ]);
}

#[test]
fn a_kernel_has_its_own_limits() {
    let fixture = Fixture::new();
    let mut kernel = ::tests::tiny::bzimage(&[]);
    // The boot protocol's initrd_addr_max and cmdline_size.
    kernel[0x22c..0x230].copy_from_slice(&0x1f_ffff_u32.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&10_u32.to_le_bytes());
    std::fs::write(fixture.path("vmlinuz"), kernel).unwrap();
    std::fs::write(fixture.path("initramfs"), vec![0; 3 << 19]).unwrap();
    let text = format!("{BOOT}initramfs = 'initramfs'\ncmdline = 'console=hvc0'\n{LUN}");
    let expected = [
        "guest1.toml:3:13: boot.initramfs: too large to lie where the kernel at line 2 looks for \
         it; use a smaller one",
        "guest1.toml:4:11: boot.cmdline: the kernel at line 2 takes 10 bytes, and these are 12; \
         shorten it",
    ];
    assert_eq!(fixture.problems(text), expected);
}

#[test]
fn what_is_booted_has_room() {
    let fixture = Fixture::new();
    // The boot protocol's pref_address and init_size.
    let kernel = |base: u64, size: u32| {
        let mut kernel = ::tests::tiny::bzimage(&[]);
        kernel[0x258..0x260].copy_from_slice(&base.to_le_bytes());
        kernel[0x260..0x264].copy_from_slice(&size.to_le_bytes());
        std::fs::write(fixture.path("vmlinuz"), kernel).unwrap();
    };
    const MIB: u32 = 1 << 20;
    let alone = format!("[machine]\nmemory = '64M'\n{BOOT}{LUN}");
    let both = format!("[machine]\nmemory = '64M'\n{BOOT}initramfs = 'initramfs'\n{LUN}");
    kernel(1 << 20, 63 * MIB);
    fixture.good(&alone);
    // The page that an initramfs begins at is the kernel's, if only just.
    kernel(1 << 20, 63 * MIB - 1);
    let why = "guest1.toml:2:10: machine.memory: too little for the kernel at line 4 and the \
               initramfs at line 5, which need 65 MiB; give the machine more memory, and what the \
               guest needs to run";
    assert_eq!(fixture.problems(&both), [why]);
    kernel(1 << 20, 63 * MIB + 1);
    let why = "guest1.toml:2:10: machine.memory: too little for the kernel at line 4, which needs \
               65 MiB; give the machine more memory, and what the guest needs to run";
    assert_eq!(fixture.problems(&alone), [why]);
    kernel(3 << 30, MIB);
    let why = "guest1.toml:4:10: boot.kernel: needs memory beyond 3 GiB; use a smaller one";
    assert_eq!(fixture.problems(&alone), [why]);
}

#[test]
fn a_socket_that_another_program_has_is_refused_and_not_disturbed() {
    let fixture = Fixture::new();
    let text = format!("{BOOT}[console]\nserial = {{ socket = 's' }}\n{LUN}");
    let listener = UnixListener::bind(fixture.path("s")).unwrap();
    let why = "guest1.toml:4:10: console.serial = {…}: s is the socket of another program; end \
               that, or choose another name";
    assert_eq!(fixture.problems(&text), [why]);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(listener);
    fixture.good(&text);
}

#[test]
fn the_path_of_a_socket_is_short() {
    let fixture = Fixture::new();
    let path = format!("/tmp/{}", "s".repeat(103));
    let text = |path: &str| format!("{BOOT}{LUN}[console]\nserial = {{ socket = '{path}' }}");
    let expected = format!(
        "guest1.toml:7:10: console.serial = {{…}}: {path} is longer than 107 bytes; use a shorter \
         path"
    );
    assert_eq!(fixture.problems(text(&path)), [expected]);
    fixture.good(&text(&path[..107]));
}

#[test]
fn console() {
    each_has_one_problem(&[
        (
            "{BOOT}{LUN}[console]\nserial = 'none'",
            "7:10: console.serial = \"none\": no such choice; use \"stdio\", \"null\", \
             { file = \"…\" } or { socket = \"…\" }",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { pipe = 's' }",
            "7:10: console.serial = {…}: no such choice; use \"stdio\", \"null\", \
             { file = \"…\" } or { socket = \"…\" }",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { file = 's', socket = 't' }",
            "7:10: console.serial = {…}: no such choice; use \"stdio\", \"null\", \
             { file = \"…\" } or { socket = \"…\" }",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { file = 5 }",
            "7:10: console.serial = {…}: not a string; write it in quotes",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { file = '.' }",
            "7:10: console.serial = {…}: . is a directory; name a file",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { file = 'none/log' }",
            "7:10: console.serial = {…}: none cannot be opened: no such file; create it, or \
             correct the path",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { socket = 'a.raw' }",
            "7:10: console.serial = {…}: a.raw is a regular file; name a path where there is \
             nothing yet",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { socket = 'none/s' }",
            "7:10: console.serial = {…}: none cannot be opened: no such file; create it, or \
             correct the path",
        ),
        (
            "{BOOT}{LUN}[console]\nserial = { file = 'link.raw' }",
            "5:9: controller.lun.image: a.raw: used already at line 7; give each LUN an image of its own, or set shared \
             and one wwn on both",
        ),
    ]);
}

#[test]
fn syntax() {
    each_has_one_problem(&[
        (
            "{BOOT}{LUN}lun =",
            "6:6: syntax: string values must be quoted, expected literal string; correct the TOML",
        ),
        (
            "{BOOT}{LUN}lun = 1 2",
            "6:7: syntax: string values must be quoted, expected literal string; correct the TOML",
        ),
        ("{BOOT}{LUN}lun = 1\nlun = 2", "7:1: syntax: duplicate key; correct the TOML"),
        ("{BOOT}[boot]\n{LUN}", "3:2: syntax: duplicate key; correct the TOML"),
        ("[boot\n{LUN}", "1:6: syntax: unclosed table, expected `]`; correct the TOML"),
        (
            "{BOOT}{LUN}serial = 'x\n",
            "6:12: syntax: invalid literal string, expected `'`; correct the TOML",
        ),
        (
            "{BOOT}{LUN}serial = \"\\q\"\n",
            "6:12: syntax: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, \
             `x`, `u`, `U`; correct the TOML",
        ),
    ]);
}

#[test]
fn dotted_keys_and_inline_tables_have_their_places() {
    each_has_one_problem(&[
        (
            "machine.vcpus = 0\n{BOOT}{LUN}",
            "1:17: machine.vcpus = 0: out of range; write an integer from 1 to 64",
        ),
        (
            "machine.cpus = 1\n{BOOT}{LUN}",
            "1:9: unknown key \"cpus\" in [machine]: it would have no effect; did you mean \
             \"vcpus\"?",
        ),
        (
            "# é\nboot.initramfs = 'initramfs'\n{LUN}",
            "2:1: boot.kernel: missing; add the path of a kernel",
        ),
        ("boot = { cmdline = 'x' }\n{LUN}", "1:8: boot.kernel: missing; add the path of a kernel"),
        (
            "controller = [{ lun = [{ image = 'a.raw' }, { }] }]\n{BOOT}",
            "1:45: [[controller.lun]]: nothing holds its data; add image, block or \
             passthrough",
        ),
        (
            "controller = [{ lun = [{ image = 'a.raw', lum = 1 }] }]\n{BOOT}",
            "1:43: unknown key \"lum\" in [[controller.lun]]: it would have no effect; did you \
             mean \"lun\"?",
        ),
        (
            "{BOOT}[[controller]]\nlun = [{image = 'a.raw', rotational.x = true}]",
            "4:26: controller.lun.rotational = {…}: not a boolean; write true or false",
        ),
    ]);
}

#[test]
fn a_stem_that_is_no_name_asks_for_one() {
    let fixture = Fixture::new();
    let path = fixture.path("my guest.toml");
    std::fs::write(&path, format!("{BOOT}{LUN}")).unwrap();
    let problem = "1:1: machine.name: missing, and the file's stem \"my guest\" cannot stand in \
                   for it; add name to [machine]";
    let expected = format!("{}:{problem}", path.display());
    assert_eq!(super::load(&path, &super::plenty()).unwrap_err().to_string(), expected);
    std::fs::write(&path, format!("[machine]\nname = 'g'\n{BOOT}{LUN}")).unwrap();
    assert!(super::load(&path, &super::plenty()).is_ok());
}

#[test]
fn one_mistake_is_not_reported_as_others() {
    let fixture = Fixture::new();
    let twins = "[[controller]]\nid = '?'\n[[controller.lun]]\nimage = 'a.raw'\ntarget = 'x'\n\
                 [[controller]]\nid = '!'\n[[controller.lun]]\nimage = 'b.raw'\nlun = 'y'\n";
    let problems = fixture.problems(format!("[machine]\nuuid = 'z'\n{BOOT}{twins}"));
    let places: Vec<_> = problems.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        ["2:8", "6:6", "9:10", "11:6", "14:7"].map(|place| format!("guest1.toml:{place}"))
    );
}

#[test]
fn all_problems_of_a_file_are_reported_in_order() {
    let fixture = Fixture::new();
    let text = "\
[[controller]]
queue_size = 100
vhost = 'naa.500140568720f76f'
[[controller.lun]]
image = 'none.raw'
wwn = 'x'
[[controller.lun]]

[boot]
kernl = 'vmlinuz'
[machine]
vcpus = 0
memory = '1MB'
on_crash = 'stop'
[console]
serial = { file = 'no/log' }
";
    let expected = [
        "guest1.toml:2:14: controller.queue_size = 100: not a power of two; write 64 or 128",
        "guest1.toml:3:1: controller.vhost: not supported yet; remove it",
        "guest1.toml:5:9: controller.lun.image: none.raw cannot be opened: \
         no such file; create it, or correct the path",
        "guest1.toml:6:7: controller.lun.wwn = \"x\": not a WWN; \
         it must be 16 hex digits that begin with 2, 3 or 5, or 32 that begin with 6",
        "guest1.toml:7:1: [[controller.lun]]: nothing holds its data; add image, block or \
             passthrough",
        "guest1.toml:9:1: boot.kernel: missing; add the path of a kernel",
        "guest1.toml:10:1: unknown key \"kernl\" in [boot]: it would have no effect; \
         did you mean \"kernel\"?",
        "guest1.toml:12:9: machine.vcpus = 0: out of range; write an integer from 1 to 64",
        "guest1.toml:13:10: machine.memory = \"1MB\": not a size of less than 16 EiB; \
         write an integer of bytes, or a string such as \"512MiB\" (K, M, G or T, binary, \
         with an optional iB)",
        "guest1.toml:14:12: machine.on_crash = \"stop\": no such choice; use \"exit\" or \
         \"restart\"",
        "guest1.toml:16:10: console.serial = {…}: no cannot be opened: no such file; create it, \
         or correct the path",
    ];
    assert_eq!(fixture.problems(text), expected);
}

#[test]
fn what_is_read_is_not_written_over() {
    each_has_one_problem(&[
        (
            "{BOOT}[console]\nserial = { file = 'vmlinuz' }\n{LUN}",
            "4:10: console.serial: it is the kernel at line 2 too, which would be overwritten; \
             name another file",
        ),
        (
            "{BOOT}initramfs = 'b.raw'\n[console]\nserial = { file = './b.raw' }\n{LUN}",
            "5:10: console.serial: it is the initramfs at line 3 too, which would be overwritten; \
             name another file",
        ),
        (
            "{BOOT}[console]\nserial = { file = 'guest1.toml' }\n{LUN}",
            "4:10: console.serial: it is this configuration too, which would be overwritten; \
             name another file",
        ),
        (
            "{BOOT}initramfs = 'link.raw'\n{LUN}",
            "6:9: controller.lun.image: a.raw: it is the initramfs at line 3 too, which would be \
             overwritten; name another medium, or set read_only = true",
        ),
    ]);
    Fixture::new().good(&format!("{BOOT}initramfs = 'a.raw'\n{LUN}read_only = true"));
}
