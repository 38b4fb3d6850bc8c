//! Images and devices of the host that a test runs on.

use std::any::Any;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::backend::{Backend, BlockDevice, Geometry, Memory, OpenError, Options, RawFile};
use tempfile::NamedTempFile;

/// An image of `size` bytes without data.
pub fn image(size: u64) -> NamedTempFile {
    image_in(&env::temp_dir(), size)
}

fn image_in(folder: &Path, size: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in(folder).unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

pub fn direct() -> Options {
    Options { direct: true, ..Options::default() }
}

/// Runs a program of the host; returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A loop device over an image of its own.
pub struct Loop {
    pub device: PathBuf,
    _image: NamedTempFile,
    parts: u32,
}

impl Loop {
    /// A loop device of `size` bytes, made by losetup with `options`; `None` where there can be
    /// none, unless `VMM_REQUIRE_LOOP` is set.
    pub fn attach(size: u64, options: &[&str]) -> Option<Loop> {
        let image = image(size);
        let path = image.path().to_str().unwrap();
        match run("losetup", &[&["--find", "--show"], options, &[path]].concat()) {
            Ok(device) => Some(Loop { device: device.into(), _image: image, parts: 0 }),
            Err(why) => {
                assert!(env::var_os("VMM_REQUIRE_LOOP").is_none(), "no loop device: {why}");
                eprintln!("skipped: no loop device: {why}");
                None
            }
        }
    }

    /// A partition of `sectors` sectors of 512 bytes from `start` on.
    pub fn partition(&mut self, start: u64, sectors: u64) -> PathBuf {
        self.parts += 1;
        let device = self.device.to_str().unwrap();
        let numbers = [self.parts.to_string(), start.to_string(), sectors.to_string()];
        run("addpart", &[device, &numbers[0], &numbers[1], &numbers[2]]).unwrap();
        PathBuf::from(format!("{device}p{}", self.parts))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let device = self.device.to_str().unwrap();
        for part in 1..=self.parts {
            let _ = run("delpart", &[device, &part.to_string()]);
        }
        if let Err(why) = run("losetup", &["--detach", device]) {
            eprintln!("{why}");
        }
    }
}

/// A backend to be tested, and what it lives on.
pub struct Subject {
    pub name: &'static str,
    pub backend: Box<dyn Backend>,
    _below: Box<dyn Any>,
}

fn subject(name: &'static str, backend: impl Backend + 'static, below: impl Any) -> Subject {
    Subject { name, backend: Box::new(backend), _below: Box::new(below) }
}

/// One backend of each kind that this host has, of `size` bytes.
pub fn subjects(size: u64) -> Vec<Subject> {
    let geometry = |block_size: u32| Geometry { blocks: size / u64::from(block_size), block_size };
    let mut subjects = vec![subject("memory", Memory::new(geometry(512)), ())];
    let blocks_of_4096 = Options { block_size: Some(4096), ..Options::default() };
    let kept = Options { discard: false, ..Options::default() };
    let files = [
        ("file", Options::default()),
        ("file of 4096-byte blocks", blocks_of_4096.clone()),
        ("file that keeps its space", kept.clone()),
        ("direct file", direct()),
        ("direct file of 4096-byte blocks", Options { direct: true, ..blocks_of_4096.clone() }),
    ];
    // tmpfs punches holes, but zeroes nothing, and has no unit of direct I/O to state.
    let in_memory = [("file in memory", Options::default()), ("direct file in memory", direct())];
    let files = files.map(|(name, options)| (name, options, env::temp_dir()));
    let in_memory = in_memory.map(|(name, options)| (name, options, PathBuf::from("/dev/shm")));
    for (name, options, folder) in files.into_iter().chain(in_memory) {
        let image = image_in(&folder, size);
        match RawFile::open(image.path(), &options) {
            Ok(file) => subjects.push(subject(name, file, image)),
            Err(why @ (OpenError::NoDirect | OpenError::DirectUnit { .. })) => {
                eprintln!("skipped: {name}: it {why}");
            }
            Err(why) => panic!("{name} {why}"),
        }
    }
    let of_4096: &[&str] = &["--sector-size", "4096"];
    let devices = [
        ("device", Options::default(), &[] as &[&str]),
        ("device under 4096-byte blocks", blocks_of_4096, &[]),
        ("device that keeps its space", kept, &[]),
        ("direct device", direct(), &[]),
        ("device of 4096-byte blocks", Options::default(), of_4096),
        ("direct device of 4096-byte blocks", direct(), of_4096),
    ];
    for (name, options, losetup) in devices {
        let Some(device) = Loop::attach(size, losetup) else { continue };
        subjects.push(subject(name, BlockDevice::open(&device.device, &options).unwrap(), device));
    }
    if let Some(mut disk) = Loop::attach(size + (1 << 20), &["--partscan"]) {
        let partition = disk.partition(2048, size / 512);
        let partition = BlockDevice::open(&partition, &direct()).unwrap();
        subjects.push(subject("direct partition", partition, disk));
    }
    subjects
}
