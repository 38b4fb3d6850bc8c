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
            "{BOOT}[[controller]]\ntransport = 'usb'",
            "4:13: controller.transport = \"usb\": no such choice; use \"pci\" or \"mmio\"",
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
            "{BOOT}[[controller]]\ntmf_timeout = '5 s'",
            "4:15: controller.tmf_timeout = \"5 s\": not a time; write a string such as \"60s\" \
             (ms, s, m or h)",
        ),
        (
            "{BOOT}[[controller]]\n[controller.initiator]\nwwpn = 'x'",
            "4:13: controller.initiator: not supported yet; remove it",
        ),
    ]);
}

#[test]
fn addresses_and_media() {
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
            "4:1: [[controller.lun]]: nothing holds its data; add image, block \
             or passthrough",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\niscsi = 'iscsi://192.0.2.1/iqn/1'",
            "5:1: controller.lun.iscsi: not supported yet; remove it",
        ),
        (
            "{BOOT}{LUN}format = 'qcow2'",
            "6:10: controller.lun.format = \"qcow2\": not supported yet; use \"raw\"",
        ),
        (
            "{BOOT}{LUN}format = 'vmdk'",
            "6:10: controller.lun.format = \"vmdk\": no such choice; use \"raw\"",
        ),
    ]);
}

#[test]
fn options_of_a_disk() {
    each_has_one_problem(&[
        (
            "{BOOT}{LUN}block_size = 1024",
            "6:14: controller.lun.block_size = 1024: not a size of blocks that guests can use; \
             write 512 or 4096",
        ),
        (
            "{BOOT}{LUN}physical_block_size = 1000",
            "6:23: controller.lun.physical_block_size = 1000: not a power of two; write 512 or \
             1024",
        ),
        (
            "{BOOT}{LUN}physical_block_size = '4M'",
            "6:23: controller.lun.physical_block_size = \"4M\": out of range; write a power of two \
             from 512 to \"2MiB\"",
        ),
        (
            "{BOOT}{LUN}write_cache = 'none'",
            "6:15: controller.lun.write_cache = \"none\": no such choice; use \"back\" or \
             \"through\"",
        ),
        (
            "{BOOT}{LUN}shared = 'everywhere'",
            "6:10: controller.lun.shared = \"everywhere\": no such choice; use true, false or \
             \"this-host-only\"",
        ),
        (
            "{BOOT}{LUN}direct = 1",
            "6:10: controller.lun.direct = 1: not a boolean; write true or false",
        ),
        (
            "{BOOT}{LUN}discard = 'no'",
            "6:11: controller.lun.discard = \"no\": not a boolean; write true or false",
        ),
        (
            "{BOOT}{LUN}read_only = 'yes'",
            "6:13: controller.lun.read_only = \"yes\": not a boolean; write true or false",
        ),
    ]);
}

#[test]
fn names_of_a_disk() {
    each_has_one_problem(&[
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
            "5:9: controller.lun.image: empty.raw is empty; give it a size, as \
             with truncate -s 1G empty.raw",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\nimage = 'odd.raw'",
            "5:9: controller.lun.image: odd.raw has 1000 bytes, which is not a multiple of 512; extend it, as with truncate -s %512 odd.raw",
        ),
        (
            "{BOOT}{LUN}[[controller.lun]]\nimage = './a.raw'",
            "7:9: controller.lun.image: ./a.raw: used already at line 5; give each LUN an image \
             of its own, or set shared and one wwn on both",
        ),
        (
            "{BOOT}{LUN}[[controller.lun]]\nimage = 'link.raw'",
            "7:9: controller.lun.image: link.raw: used already at line 5; give each LUN an image \
             of its own, or set shared and one wwn on both",
        ),
        (
            "{BOOT}{LUN}[[controller]]\n[[controller.lun]]\nimage = 'hard.raw'",
            "8:9: controller.lun.image: hard.raw: used already at line 5; give each LUN an image \
             of its own, or set shared and one wwn on both",
        ),
        (
            "{BOOT}{LUN}wwn = '5001438012345678'\n[[controller.lun]]\nimage = 'b.raw'\nwwn = \
             'naa.5001438012345678'",
            "9:7: controller.lun.wwn naa.5001438012345678: used already at line 6; give each \
             medium a wwn of its own",
        ),
        (
            "{BOOT}{LUN}lun = 1\nwwn = '3e2f3c5c7e1fa9f9'\n[[controller.lun]]\nimage = \
             'b.raw'\nlun = 0",
            "8:1: controller.lun.wwn naa.3e2f3c5c7e1fa9f9: used already at line 7; give each \
             medium a wwn of its own",
        ),
    ]);
}

#[test]
fn options_that_contradict_each_other_name_both_places() {
    each_has_one_problem(&[
        (
            "{BOOT}{LUN}block_size = 4096",
            "6:14: controller.lun.block_size with the image at line 5: a.raw has 512 bytes, which \
             is not a multiple of 4096; extend it, as with truncate -s %4096 a.raw",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\nphysical_block_size = 512\nblock_size = \
             4096\nimage = 'pages.raw'",
            "5:23: controller.lun.physical_block_size with the block_size at line 6: pages.raw has \
             blocks of 4096 bytes, and physical ones are to have 512; set physical_block_size to \
             4096 or more, or leave it out",
        ),
        (
            "{BOOT}{LUN}shared = true",
            "6:10: controller.lun.shared: it has no wwn, and none can be derived that all who \
             share it have; add wwn, the same wherever it is used",
        ),
    ]);
}

#[test]
fn lun_with_format_and_block() {
    let fixture = Fixture::new();
    let text = format!("{BOOT}[[controller]]\n[[controller.lun]]\nformat = 'raw'\nblock = 'a.raw'");
    let expected = [
        "guest1.toml:5:10: controller.lun.format: an image has one, and line 6 has block; remove it",
        "guest1.toml:6:9: controller.lun.block: a.raw is a regular file; name it by image instead of \
         block",
    ];
    assert_eq!(fixture.problems(text), expected);
}

/// Two LUNs, each with an image, whether it is shared, its wwn, and what else it says.
fn two(luns: [(&str, bool, &str, &str); 2]) -> String {
    let lun = |(image, shared, wwn, more): (&str, bool, &str, &str)| {
        format!("[[controller.lun]]\nimage = '{image}'\nshared = {shared}\nwwn = '{wwn}'\n{more}\n")
    };
    format!("{BOOT}[[controller]]\n{}{}", lun(luns[0]), lun(luns[1]))
}

#[test]
fn shared_media() {
    const A: &str = "5001438012345678";
    const B: &str = "5001438012345679";
    let fixture = Fixture::new();
    fixture.good(&two([("a.raw", true, A, ""), ("hard.raw", true, A, "")]));
    fixture.good(&two([("a.raw", true, A, ""), ("b.raw", true, B, "")]));
    fixture.good(&two([("a.raw", true, A, "serial = 'S'"), ("a.raw", true, A, "serial = 'S'")]));
    let a_raw = "9:9: controller.lun.image: a.raw: used already at line 5; ";
    let own = "give each LUN an image of its own, or set shared and one wwn on both";
    let wwn = "10:7: controller.lun.wwn naa.5001438012345678: used already at line 7; give each \
               medium a wwn of its own";
    for (luns, problem) in [
        ([("a.raw", false, A, ""), ("a.raw", false, A, "")], format!("{a_raw}{own}")),
        ([("a.raw", true, A, ""), ("a.raw", false, A, "")], format!("{a_raw}{own}")),
        ([("a.raw", false, A, ""), ("a.raw", true, B, "")], format!("{a_raw}{own}")),
        (
            [("a.raw", true, A, ""), ("a.raw", true, B, "")],
            format!("{a_raw}it has one identity: give both the same wwn and serial"),
        ),
        (
            [("a.raw", true, A, ""), ("a.raw", true, A, "serial = 'S'")],
            format!("{a_raw}it has one identity: give both the same wwn and serial"),
        ),
        (
            [("pages.raw", true, A, ""), ("pages.raw", true, A, "block_size = 4096")],
            format!("{a_raw}it has one size of blocks: give both the same block_size")
                .replace("a.raw", "pages.raw"),
        ),
        ([("a.raw", true, A, ""), ("b.raw", true, A, "")], wwn.to_owned()),
        ([("a.raw", false, A, ""), ("b.raw", false, A, "")], wwn.to_owned()),
    ] {
        // Without the empty line that stands for nothing more.
        let text = two(luns).replace("\n\n", "\n");
        let wanted = format!("guest1.toml:{problem}").replace("10:7: ", "11:7: ");
        assert_eq!(fixture.problems(&text), [wanted], "{text}");
    }
}

#[test]
fn transports_have_places() {
    let fixture = Fixture::new();
    let many =
        |count, keys: &str| format!("{BOOT}{}", format!("[[controller]]\n{keys}\n").repeat(count));
    fixture.good(&many(248, ""));
    fixture.good(&many(14, "transport = 'mmio'"));
    for (count, keys, problem) in [
        (
            249,
            "",
            "499:1: [[controller]]: the 248 places of the PCI bus are taken; use fewer \
             controllers with more LUNs each",
        ),
        (
            16,
            "transport = 'mmio'",
            "31:1: [[controller]]: the 14 interrupt lines for MMIO are taken; use transport = \
             \"pci\", or fewer controllers",
        ),
        (
            62,
            "request_queues = 64",
            "123:1: [[controller]]: the 4056 MSI vectors of KVM are taken; use fewer \
             controllers or fewer request_queues",
        ),
    ] {
        assert_eq!(fixture.problems(many(count, keys)), [format!("guest1.toml:{problem}")]);
    }
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
