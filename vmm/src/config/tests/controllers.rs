//! The line that is said about each thing that a controller or a LUN may have wrong.

use super::{BOOT, Fixture, LUN, each_has_one_problem};

#[test]
fn controller_keys() {
    each_has_one_problem(&[
        (
            "{BOOT}[[controller]]\nid = 'a/b'",
            "4:6: controller.id = \"a/b\": not a name; use at most 64 of A-Z, a-z, 0-9, '-', '_' \
             and '.', with a letter or digit first",
        ),
        (
            "{BOOT}[[controller]]\nid = 'a'\n[[controller]]\nid = 'a'",
            "6:6: controller.id \"a\": used already at line 4; give each controller an id of its \
             own",
        ),
        (
            "{BOOT}[[controller]]\nid = 'scsi1'\n[[controller]]",
            "5:1: controller.id \"scsi1\": used already at line 4; give each controller an id of \
             its own",
        ),
        (
            "{BOOT}[[controller]]\ntransport = 'mmio'",
            "4:13: controller.transport = \"mmio\": not supported yet; use \"pci\"",
        ),
        (
            "{BOOT}[[controller]]\ntransport = 'usb'",
            "4:13: controller.transport = \"usb\": no such choice; use \"pci\"",
        ),
        (
            "{BOOT}[[controller]]\nrequest_queues = 0",
            "4:18: controller.request_queues = 0: out of range; write an integer from 1 to 64",
        ),
        (
            "{BOOT}[[controller]]\nrequest_queues = 65",
            "4:18: controller.request_queues = 65: out of range; write an integer from 1 to 64",
        ),
        (
            "{BOOT}[[controller]]\nqueue_size = 4",
            "4:14: controller.queue_size = 4: out of range; write an integer from 8 to 1024",
        ),
        (
            "{BOOT}[[controller]]\nqueue_size = 2048",
            "4:14: controller.queue_size = 2048: out of range; write an integer from 8 to 1024",
        ),
        (
            "{BOOT}[[controller]]\nqueue_size = 1000",
            "4:14: controller.queue_size = 1000: not a power of two; write 512 or 1024",
        ),
        (
            "{BOOT}[[controller]]\nvhost = 'naa.500140568720f76f'",
            "4:1: controller.vhost: not supported yet; remove it",
        ),
        (
            "{BOOT}[[controller]]\ntmf_timeout = '5s'",
            "4:1: controller.tmf_timeout: not supported yet; remove it",
        ),
        (
            "{BOOT}[[controller]]\n[controller.initiator]\nwwpn = 'x'",
            "4:13: controller.initiator: not supported yet; remove it",
        ),
    ]);
}

#[test]
fn lun_keys() {
    each_has_one_problem(&[
        (
            "{BOOT}{LUN}target = 256",
            "6:10: controller.lun.target = 256: out of range; write an integer from 0 to 255",
        ),
        (
            "{BOOT}{LUN}lun = 16384",
            "6:7: controller.lun.lun = 16384: out of range; write an integer from 0 to 16383",
        ),
        (
            "{BOOT}{LUN}lun = 1\n[[controller.lun]]\nimage = 'b.raw'\nlun = 1",
            "9:7: target 0 lun 1: used already at line 6; give each LUN of the controller a \
             place of its own",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]",
            "4:1: [[controller.lun]]: nothing holds its data; add an image",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\nblock = '/dev/vg0/data'",
            "5:1: controller.lun.block: not supported yet; remove it",
        ),
        (
            "{BOOT}{LUN}format = 'qcow2'",
            "6:10: controller.lun.format = \"qcow2\": not supported yet; use \"raw\"",
        ),
        (
            "{BOOT}{LUN}format = 'vmdk'",
            "6:10: controller.lun.format = \"vmdk\": no such choice; use \"raw\"",
        ),
        (
            "{BOOT}{LUN}read_only = 'yes'",
            "6:13: controller.lun.read_only = \"yes\": not a boolean; write true or false",
        ),
        (
            "{BOOT}{LUN}serial = 1234",
            "6:10: controller.lun.serial = 1234: not a string; write it in quotes",
        ),
        (
            "{BOOT}{LUN}serial = ''",
            "6:10: controller.lun.serial = \"\": not a serial number; use 1 to 36 printable \
             ASCII characters",
        ),
        (
            "{BOOT}{LUN}wwn = '1000000000000000'",
            "6:7: controller.lun.wwn = \"1000000000000000\": not a WWN; it must be 16 hex digits \
             that begin with 2, 3 or 5, or 32 that begin with 6",
        ),
        (
            "{BOOT}{LUN}vendor = 'ninechars'",
            "6:10: controller.lun.vendor = \"ninechars\": does not fit; it must be printable \
             ASCII of at most 8 characters",
        ),
        (
            "{BOOT}{LUN}product = 'é'",
            "6:11: controller.lun.product = \"é\": does not fit; it must be printable ASCII of \
             at most 16 characters",
        ),
        (
            "{BOOT}{LUN}revision = '0.1.0'",
            "6:12: controller.lun.revision = \"0.1.0\": does not fit; it must be printable ASCII \
             of at most 4 characters",
        ),
        (
            "{BOOT}{LUN}write_cache = 'back'",
            "6:1: controller.lun.write_cache: not supported yet; remove it",
        ),
        ("{BOOT}{LUN}shared = true", "6:1: controller.lun.shared: not supported yet; remove it"),
        (
            "{BOOT}{LUN}readonly = true",
            "6:1: unknown key \"readonly\" in [[controller.lun]]: it would have no effect; did \
             you mean \"read_only\"?",
        ),
    ]);
}

#[test]
fn images_and_wwns() {
    each_has_one_problem(&[
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\nimage = 'empty.raw'",
            "5:9: controller.lun.image = \"empty.raw\": empty.raw is empty; give it a size, as \
             with truncate -s 1G empty.raw",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\nimage = 'odd.raw'",
            "5:9: controller.lun.image = \"odd.raw\": the 1000 bytes of odd.raw are not a \
             multiple of 512; extend it, as with truncate -s %512 odd.raw",
        ),
        (
            "{BOOT}{LUN}[[controller.lun]]\nimage = './a.raw'",
            "7:9: controller.lun.image: ./a.raw: used already at line 5; give each LUN an image \
             of its own",
        ),
        (
            "{BOOT}{LUN}[[controller.lun]]\nimage = 'link.raw'",
            "7:9: controller.lun.image: link.raw: used already at line 5; give each LUN an image \
             of its own",
        ),
        (
            "{BOOT}{LUN}[[controller]]\n[[controller.lun]]\nimage = 'hard.raw'",
            "8:9: controller.lun.image: hard.raw: used already at line 5; give each LUN an image \
             of its own",
        ),
        (
            "{BOOT}{LUN}wwn = '5001438012345678'\n[[controller.lun]]\nimage = 'b.raw'\nwwn = \
             'naa.5001438012345678'",
            "9:7: controller.lun.wwn naa.5001438012345678: used already at line 6; give each LUN \
             a wwn of its own",
        ),
        (
            "{BOOT}{LUN}lun = 1\nwwn = '3e2f3c5c7e1fa9f9'\n[[controller.lun]]\nimage = \
             'b.raw'\nlun = 0",
            "8:1: controller.lun.wwn naa.3e2f3c5c7e1fa9f9: used already at line 7; give each LUN \
             a wwn of its own",
        ),
    ]);
}

#[test]
fn two_backings_are_refused_besides_the_one_that_is_not_served() {
    let fixture = Fixture::new();
    let expected = [
        "guest1.toml:4:1: [[controller.lun]]: image and cdrom exclude each other; keep one of them",
        "guest1.toml:6:1: controller.lun.cdrom: not supported yet; remove it",
    ];
    assert_eq!(fixture.problems(format!("{BOOT}{LUN}cdrom = 'x.iso'")), expected);
}
