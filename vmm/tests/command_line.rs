//! What the command line says before anything starts.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

fn vmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmm")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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
    for arguments in [&[][..], &["--nonsense"], &["guest.toml"]] {
        assert_eq!(vmm(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_its_place() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("guest.toml");
    fs::write(
        &path,
        "[machine]\nvcpu = 2\nmemory = \"1 GB\"\n[boot]\nkernel = \"vmlinuz\"\n\
         [[controller]]\ntransport = \"mmio\"\n[[controller.lun]]\nimage = \"none.img\"\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let output = vmm(&["--config", path]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    let places: Vec<&str> =
        stderr.lines().map(|line| line.strip_prefix(path).unwrap_or(line)).collect();
    let starts = [":2:1: ", ":3:10: ", ":5:10: ", ":7:13: ", ":9:9: "];
    assert_eq!(places.len(), starts.len(), "{stderr}");
    for (line, start) in places.iter().zip(starts) {
        assert!(line.starts_with(start), "{line:?} does not start with {start:?}");
    }
    assert!(stderr.contains("not supported yet"), "{stderr}");
}

#[test]
fn a_file_that_is_no_kernel_is_exit_2() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name| folder.path().join(name);
    fs::write(path("kernel"), [0; 4096]).unwrap();
    fs::write(path("disk.img"), [0; 512]).unwrap();
    let config =
        "[boot]\nkernel = \"kernel\"\n[[controller]]\n[[controller.lun]]\nimage = \"disk.img\"\n";
    fs::write(path("guest.toml"), config).unwrap();
    let output = vmm(&["--config", path("guest.toml").to_str().unwrap()]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("kernel") && stderr.lines().count() == 1, "{stderr}");
}
