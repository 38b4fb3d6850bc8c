//! What is said where the host cannot give what a configuration asks for.

use super::{BOOT, Fixture, LUN, plenty};
use crate::host::{Descriptors, Host, Kvm, Memory, NoKvm};

/// Each text has exactly one problem on the host beside it.
fn each_has_one_problem(cases: &[(Host, &str, &str)]) {
    let fixture = Fixture::new();
    for (host, text, problem) in cases {
        let text = text.replace("{BOOT}", BOOT).replace("{LUN}", LUN);
        assert_eq!(fixture.problems_on(host, &text), [*problem], "{text}");
        fixture.good(&text);
    }
}

#[test]
fn kvm() {
    let no = NoKvm { why: "is away".into(), remedy: "bring it back" };
    let small = Kvm { vcpus: 4, physical_bits: 36 };
    each_has_one_problem(&[
        (Host { kvm: Err(no), ..plenty() }, "{BOOT}{LUN}", "/dev/kvm: is away; bring it back"),
        (
            Host { kvm: Ok(small), ..plenty() },
            "[machine]\nvcpus = 5\n{BOOT}{LUN}",
            "guest1.toml:2:9: machine.vcpus = 5: more than this host's KVM has; write 4 or less",
        ),
        (
            Host { kvm: Ok(small), ..plenty() },
            "[machine]\nmemory = '64G'\n{BOOT}{LUN}",
            "guest1.toml:2:10: machine.memory: more than 36 physical address bits of this host's \
             vCPUs reach; give the machine less",
        ),
    ]);
}

#[test]
fn memory() {
    let with = |available, huge_pages| {
        let memory = Memory { total: 1 << 30, available, huge_pages };
        Host { memory: Some(memory), ..plenty() }
    };
    each_has_one_problem(&[
        (
            with(1 << 29, 0),
            "[machine]\nmemory = '1G'\nmemory_backing = 'prealloc'\n{BOOT}{LUN}",
            "guest1.toml:3:18: machine.memory_backing: the host has 512 MiB left, and memory is \
             1024 MiB; give the machine less, or use \"anonymous\"",
        ),
        (
            with(1 << 30, 0),
            "[machine]\nmemory = '9G'\n{BOOT}{LUN}",
            "guest1.toml:2:10: machine.memory: more than 8 times what the host has, 1024 MiB with \
             swap; give the machine less",
        ),
        (
            with(0, 255),
            "[machine]\nmemory_backing = 'hugepages'\n{BOOT}{LUN}",
            "guest1.toml:2:18: machine.memory_backing: memory takes 256 huge pages of 2 MiB, and \
             255 are free; raise vm.nr_hugepages, or use \"anonymous\" or \"prealloc\"",
        ),
    ]);
    let fixture = Fixture::new();
    fixture.good(&format!("[machine]\nmemory = '8TiB'\n{BOOT}{LUN}"));
    assert_eq!(
        fixture.problems(format!("[machine]\nmemory = '8196G'\n{BOOT}{LUN}")),
        ["guest1.toml:2:10: machine.memory: more than KVM takes; write 8TiB or less"]
    );
    let odd = format!("[machine]\nmemory_backing = 'hugepages'\nmemory = '65M'\n{BOOT}{LUN}");
    assert_eq!(
        fixture.problems(odd),
        ["guest1.toml:2:18: machine.memory_backing: memory at line 3 is not a multiple of \
             their 2 MiB; write memory = \"66MiB\""]
    );
}

#[test]
fn descriptors() {
    let few = Host { descriptors: Descriptors { limit: 60, open: 3 }, ..plenty() };
    each_has_one_problem(&[(
        few,
        "{BOOT}{LUN}",
        "file descriptors: the guest needs 65, and this process may have 60; raise the hard \
         limit (ulimit -Hn), or give the guest fewer LUNs, controllers or request queues",
    )]);
}

#[test]
fn each_command_by_a_broker_takes_a_descriptor() {
    let fixture = Fixture::new();
    let _broker = std::os::unix::net::UnixListener::bind(fixture.path("s")).unwrap();
    let text = format!("{BOOT}[[controller]]\n[[controller.lun]]\npassthrough = 'a.raw'\n");
    let needed = |more: &str| {
        let host = Host { descriptors: Descriptors { limit: 60, open: 3 }, ..plenty() };
        let told = fixture.problems_on(&host, format!("{text}{more}")).remove(0);
        let needed = told.strip_prefix("file descriptors: the guest needs ").unwrap().split(',');
        needed.take(1).collect::<String>().parse::<u64>().unwrap()
    };
    assert_eq!(needed("queue_depth = 7\n"), 66);
    assert_eq!(needed("queue_depth = 7\nbroker = 's'\n"), 73);
    assert_eq!(needed("broker = 's'\n"), 66 + 64);
}

#[test]
fn what_the_host_lacks_comes_after_what_is_wrong_in_the_file() {
    let no = NoKvm { why: "is away".into(), remedy: "bring it back" };
    let bad = Host { kvm: Err(no), ..plenty() };
    let problems = Fixture::new().problems_on(&bad, format!("{BOOT}{LUN}lun = -1\n"));
    assert_eq!(problems.len(), 2);
    assert!(problems[0].starts_with("guest1.toml:6:7: "), "{problems:?}");
    assert!(problems[1].starts_with("/dev/kvm: "), "{problems:?}");
}
