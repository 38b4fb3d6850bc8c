//! The crates depend on each other, and on what they wrap, in one direction only.

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What `package` names in its [dependencies].
fn dependencies(package: &str) -> Vec<String> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let package = metadata.packages.iter().find(|found| found.name == package).expect("a member");
    let normal = package.dependencies.iter().filter(|dep| dep.kind == DependencyKind::Normal);
    normal.map(|dep| dep.name.clone()).collect()
}

fn assert_without(package: &str, forbidden: &[&str]) {
    for dependency in dependencies(package) {
        assert!(!forbidden.contains(&dependency.as_str()), "{package} depends on {dependency}");
    }
}

const KVM: [&str; 2] = ["kvm-ioctls", "kvm-bindings"];
const CONFIGURATION: [&str; 3] = ["toml", "serde", "clap"];

#[test]
fn storage_knows_no_virtio_no_kvm_and_no_guest_memory() {
    assert_without(
        "storage",
        &["vmm", "devices", "arch", "vm-memory", "virtio-queue", "virtio-bindings"],
    );
    assert_without("storage", &KVM);
    assert_without("storage", &CONFIGURATION);
}

#[test]
fn devices_know_no_kvm_and_no_configuration() {
    assert_without("devices", &["vmm", "arch", "linux-loader"]);
    assert_without("devices", &KVM);
    assert_without("devices", &CONFIGURATION);
}

#[test]
fn arch_issues_no_ioctl_and_knows_no_device() {
    assert_without("arch", &["vmm", "devices", "storage", "kvm-ioctls", "libc", "vmm-sys-util"]);
    assert_without("arch", &CONFIGURATION);
}

#[test]
fn the_broker_knows_storage_alone_and_nobody_knows_the_broker() {
    assert_without("broker", &["vmm", "devices", "arch", "vm-memory", "virtio-queue"]);
    assert_without("broker", &KVM);
    for package in ["vmm", "devices", "storage", "arch"] {
        assert_without(package, &["broker"]);
    }
}
