use super::testing::Tree;
use super::*;
use crate::host::HostLimits;

fn hctl(text: &str) -> Hctl {
    text.parse().unwrap()
}

#[test]
fn an_address_has_four_numbers() {
    assert_eq!(hctl("2:0:1:16385"), Hctl { host: 2, channel: 0, target: 1, lun: 16385 });
    assert_eq!(hctl("2:0:1:16385").to_string(), "2:0:1:16385");
    for bad in ["", "host2", "target2:0:0", "1:2:3", "1:2:3:4:5", "1:2:3:-4", "a:b:c:d"] {
        assert_eq!(bad.parse::<Hctl>(), Err(HctlError), "{bad}");
    }
}

#[test]
fn devices_are_told_from_hosts_and_targets() {
    let tree = Tree::new();
    for address in ["10:0:0:0", "2:0:0:1", "2:0:0:0"] {
        tree.device("pci0/host2", address);
    }
    tree.file("devices/pci0/host2/uevent", "");
    tree.link("bus/scsi/devices/host2", "devices/pci0/host2");
    tree.link("bus/scsi/devices/target2:0:0", "devices/pci0/host2");
    let found = tree.sysfs().devices().unwrap();
    let addresses: Vec<String> = found.iter().map(|it| it.address().to_string()).collect();
    assert_eq!(addresses, ["2:0:0:0", "2:0:0:1", "10:0:0:0"]);
    assert!(Sysfs::at(Path::new("/nowhere")).devices().is_err());
}

#[test]
fn a_device_is_found_again_by_its_address() {
    let tree = Tree::new();
    assert!(tree.sysfs().device(hctl("2:0:0:0")).is_none());
    let folder = tree.device("pci0/host2", "2:0:0:0");
    tree.disk(&folder, "sdb", "8:16");
    tree.char(&folder, "scsi_generic", "sg1", "21:1");
    tree.file(&format!("{folder}/vendor"), "LIO-ORG ");
    let device = tree.sysfs().device(hctl("2:0:0:0")).unwrap();
    assert_eq!(device.state().unwrap(), "running");
    assert_eq!((device.device_type(), device.sg().as_deref()), (Some(0), Some("sg1")));
    assert_eq!(device.names(), ["LIO-ORG", "", ""].map(String::from));
    let block = device.block().unwrap();
    assert_eq!((block.name(), block.path()), ("sdb", "/dev/sdb".into()));
    assert_eq!(block.device(), Some(device.clone()));
    tree.remove(&folder);
    assert_eq!(device.state().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert!(tree.sysfs().device(hctl("2:0:0:0")).is_none());
}

#[test]
fn limits_are_those_of_the_queue_as_of_now() {
    let tree = Tree::new();
    let folder = tree.device("pci0/host2", "2:0:0:0");
    let disk = tree.disk(&folder, "sdb", "8:16");
    let block = tree.sysfs().device(hctl("2:0:0:0")).unwrap().block().unwrap();
    let all = HostLimits {
        max_bytes: 1280 * 1024,
        max_hw_bytes: 32767 * 1024,
        max_segments: 256,
        alignment: 512,
        queue_depth: 32,
    };
    assert_eq!(block.limits().unwrap(), all);
    tree.file(&format!("{disk}/queue/max_sectors_kb"), "128");
    tree.file(&format!("{folder}/queue_depth"), "1");
    let less = HostLimits { max_bytes: 128 * 1024, queue_depth: 1, ..all };
    assert_eq!(block.limits().unwrap(), less);
}

#[test]
fn small_segments_bound_the_whole() {
    let tree = Tree::new();
    let folder = tree.device("pci0/host2", "2:0:0:0");
    let disk = tree.disk(&folder, "sdb", "8:16");
    tree.file(&format!("{disk}/queue/max_segment_size"), "4096");
    let limits = tree.sysfs().device(hctl("2:0:0:0")).unwrap().block().unwrap().limits().unwrap();
    assert_eq!((limits.max_bytes, limits.max_hw_bytes), (256 * 4096, 256 * 4096));
}

#[test]
fn an_alignment_is_a_mask_and_old_kernels_do_not_give_it() {
    let tree = Tree::new();
    let folder = tree.device("pci0/host2", "2:0:0:0");
    let disk = tree.disk(&folder, "sdb", "8:16");
    let block = tree.sysfs().device(hctl("2:0:0:0")).unwrap().block().unwrap();
    let path = format!("{disk}/queue/dma_alignment");
    for (mask, bytes) in [("511", 512), ("3", 4), ("0", 1), ("6", 4), ("4294967295", 4), ("", 4)] {
        tree.file(&path, mask);
        assert_eq!(block.limits().unwrap().alignment, bytes, "{mask}");
    }
}

#[test]
fn a_device_that_is_gone_carries_nothing() {
    let tree = Tree::new();
    let folder = tree.device("pci0/host2", "2:0:0:0");
    tree.disk(&folder, "sdb", "8:16");
    let block = tree.sysfs().device(hctl("2:0:0:0")).unwrap().block().unwrap();
    tree.file(&format!("{folder}/state"), "cancel");
    assert_eq!(block.limits().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    tree.remove(&folder);
    assert_eq!(block.limits().unwrap_err().raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn a_number_that_is_none_is_an_error() {
    let tree = Tree::new();
    let folder = tree.device("pci0/host2", "2:0:0:0");
    let disk = tree.disk(&folder, "sdb", "8:16");
    tree.file(&format!("{disk}/queue/max_segments"), "many");
    let block = tree.sysfs().device(hctl("2:0:0:0")).unwrap().block().unwrap();
    assert_eq!(block.limits().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

fn two_legs(tree: &Tree) -> [String; 2] {
    [("2:0:0:0", "sdb", "8:16"), ("3:0:0:0", "sdc", "8:32")].map(|(address, name, number)| {
        let folder = tree.device("pci0/host", address);
        tree.disk(&folder, name, number)
    })
}

fn block_at(tree: &Tree, major: u32, minor: u32) -> BlockNode {
    match tree.sysfs().node(Number::Block { major, minor }).unwrap() {
        Found::Block(block) => block,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_multipath_map_carries_the_least_of_its_legs() {
    let tree = Tree::new();
    let legs = two_legs(&tree);
    tree.volume("mpath-3600140", &[&legs[0], &legs[1]]);
    tree.file(&format!("{}/queue/max_hw_sectors_kb", legs[1]), "256");
    tree.file(&format!("{}/queue/max_segments", legs[0]), "64");
    tree.file("devices/pci0/host/3:0:0:0/queue_depth", "8");
    let map = block_at(&tree, 253, 0);
    let limits = map.limits().unwrap();
    assert_eq!((limits.max_bytes, limits.max_hw_bytes), (256 * 1024, 256 * 1024));
    assert_eq!((limits.max_segments, limits.queue_depth), (64, 8));
    assert_eq!(map.addresses(), [hctl("2:0:0:0"), hctl("3:0:0:0")]);
    tree.file("devices/pci0/host/3:0:0:0/state", "deleted");
    assert_eq!(map.limits().unwrap().max_hw_bytes, 32767 * 1024);
    tree.file("devices/pci0/host/2:0:0:0/state", "deleted");
    assert_eq!(map.limits().unwrap_err().raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn a_disk_knows_its_parts_and_who_is_built_on_it() {
    let tree = Tree::new();
    let [disk, _] = two_legs(&tree);
    let part = tree.block(&format!("{disk}/sdb1"), "8:17");
    tree.file(&format!("{part}/partition"), "1");
    tree.volume("LVM-abc", &[&part]);
    let block = block_at(&tree, 8, 16);
    assert_eq!(block.holders(), []);
    let parts = block.partitions();
    assert_eq!(parts.iter().map(BlockNode::name).collect::<Vec<_>>(), ["sdb1"]);
    assert_eq!(parts[0].holders()[0].mapped().unwrap().name, "mpatha");
    assert!(!parts[0].holders()[0].mapped().unwrap().is_multipath());
}

fn ports(initiator: &str, target: &str) -> Ports {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ports { initiator: some(initiator), target: some(target) }
}

fn transported(tree: &Tree) -> (String, Ports) {
    let device = tree.sysfs().device(hctl("2:0:1:0")).unwrap();
    (device.transport(), device.ports())
}

#[test]
fn ports_of_fibre_channel() {
    let tree = Tree::new();
    tree.device("pci0/host2/rport-2:0-1/target2:0:1", "2:0:1:0");
    tree.file("class/fc_host/host2/port_name", "0x2100000000000001");
    tree.file("class/fc_transport/target2:0:1/port_name", "0x5001438012345678");
    let expected = ports("naa.2100000000000001", "naa.5001438012345678");
    assert_eq!(transported(&tree), ("fc".into(), expected));
}

#[test]
fn ports_of_iscsi() {
    let tree = Tree::new();
    tree.device("platform/host2/session7/target2:0:1", "2:0:1:0");
    tree.file("class/iscsi_session/session7/initiatorname", "iqn.2026-01.test:guest1");
    tree.file("class/iscsi_session/session7/targetname", "iqn.2026-01.test:disk");
    tree.file("class/iscsi_session/session7/tpgt", "1");
    let expected = ports("iqn.2026-01.test:guest1", "iqn.2026-01.test:disk,t,0x0001");
    assert_eq!(transported(&tree), ("iscsi".into(), expected));
    tree.file("class/iscsi_session/session7/isid", "80abcdef0001");
    let initiator = transported(&tree).1.initiator;
    assert_eq!(initiator.as_deref(), Some("iqn.2026-01.test:guest1,i,0x80abcdef0001"));
    tree.file("class/iscsi_session/session7/initiatorname", "<NULL>");
    assert_eq!(transported(&tree).1.initiator, None);
}

#[test]
fn ports_of_serial_attached_scsi() {
    let tree = Tree::new();
    tree.device("pci0/host2/port-2:0/end_device-2:0/target2:0:1", "2:0:1:0");
    tree.file("class/sas_device/end_device-2:0/sas_address", "0x5000c50012345678");
    tree.file("class/sas_phy/phy-2:0:4/sas_address", "0x1");
    tree.file("class/sas_phy/phy-2:3/sas_address", "0x500605b000000001");
    let expected = ports("naa.500605b000000001", "naa.5000c50012345678");
    assert_eq!(transported(&tree), ("sas".into(), expected));
    tree.file("class/scsi_host/host2/host_sas_address", "0x500605b000000002");
    assert_eq!(transported(&tree).1.initiator.as_deref(), Some("naa.500605b000000002"));
}

#[test]
fn ports_of_lio_s_loopback() {
    let tree = Tree::new();
    tree.device("tcm_loop_0/tcm_loop_adapter_0/host2/target2:0:1", "2:0:1:0");
    tree.file("class/scsi_host/host2/proc_name", "tcm_loopback");
    assert_eq!(transported(&tree), ("tcm_loop".into(), Ports::default()));
    let fabric = "kernel/config/target/loopback";
    tree.file(&format!("{fabric}/naa.50014050000000a1/tpgt_1/address"), "3:0:1");
    tree.file(&format!("{fabric}/naa.50014050000000b2/tpgt_1/address"), "2:0:1");
    tree.file(&format!("{fabric}/naa.50014050000000b2/tpgt_1/nexus"), "naa.60014050000000b2");
    let expected = ports("naa.60014050000000b2", "naa.50014050000000b2,t,1");
    assert_eq!(transported(&tree), ("tcm_loop".into(), expected));
}

#[test]
fn a_transport_without_names_is_its_driver_s() {
    let tree = Tree::new();
    tree.device("pseudo_0/adapter0/host2/target2:0:1", "2:0:1:0");
    tree.file("class/scsi_host/host2/proc_name", "scsi_debug");
    assert_eq!(transported(&tree), ("scsi_debug".into(), Ports::default()));
}
