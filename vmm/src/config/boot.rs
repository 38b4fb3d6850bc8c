//! `[boot]`, and whether the machine has room for it.
//!
//! This file must not know how a kernel is loaded.

use std::path::{Path, PathBuf};

use arch::boot::{self, NoPlace};
use arch::layout::{self, Layout};

use super::claims::Claims;
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::{files, values};
use crate::kernel::{self, BootError, Needs};
use crate::spec::BootSpec;

const CMDLINE_DEFAULT: &str = "console=ttyS0";

/// What has been read of `[boot]`; nothing where a value is refused.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    kernel: Option<Placed<Kernel>>,
    initramfs: Option<Option<Placed<Initramfs>>>,
    cmdline: Option<Placed<String>>,
}

#[derive(Clone, Debug)]
struct Kernel {
    path: PathBuf,
    needs: Needs,
}

#[derive(Clone, Debug)]
struct Initramfs {
    path: PathBuf,
    size: u64,
}

impl Boot {
    /// Reads `[boot]`. Relative paths are relative to `base`.
    pub(super) fn read(
        table: &Field<Table<'_>>,
        base: &Path,
        problems: &mut Problems<'_>,
    ) -> Option<Boot> {
        let table = match table {
            Field::Given(table) => table.value,
            Field::Refused => return None,
            Field::Absent => {
                let remedy = "add it, with the kernel to boot";
                problems.report(0, "[boot]", &Refusal::new("missing", remedy));
                return None;
            }
        };
        let path = |value: &_| values::path(value).map(|path| base.join(path));
        let kernel = table.read("kernel", |value| kernel(path(value)?), problems);
        if matches!(kernel, Field::Absent) {
            let refusal = Refusal::new("missing", "add the path of a kernel");
            problems.report(table.at(), "boot.kernel", &refusal);
        }
        let initramfs = table.read("initramfs", |value| initramfs(path(value)?), problems);
        let cmdline = table.read("cmdline", values::cmdline, problems);
        Some(Boot {
            kernel: kernel.given(),
            initramfs: initramfs.optional(),
            cmdline: cmdline.or_at(table.at(), CMDLINE_DEFAULT.to_owned()),
        })
    }

    /// Claims what is read.
    pub(super) fn claim(&self, claims: &mut Claims, problems: &Problems<'_>) {
        let mut source = |path: &Path, what, at| {
            claims.source(path, format!("the {what} at line {}", problems.line(at)));
        };
        if let Some(kernel) = &self.kernel {
            source(&kernel.value.path, "kernel", kernel.at);
        }
        if let Some(Some(initramfs)) = &self.initramfs {
            source(&initramfs.value.path, "initramfs", initramfs.at);
        }
    }

    /// Whether kernel and initramfs have room in `memory` bytes, and the command line in the
    /// kernel.
    pub(super) fn fit(&self, memory: Placed<u64>, layout: &Layout, problems: &mut Problems<'_>) {
        let Some(kernel) = &self.kernel else { return };
        let needs = kernel.value.needs;
        self.fit_cmdline(kernel.at, needs.cmdline_max, problems);
        if needs.end > layout::HOLE.base {
            let refusal = Refusal::new("needs memory beyond 3 GiB", "use a smaller one");
            problems.report(kernel.at, "boot.kernel", &refusal);
            return;
        }
        let (needed, what) = match &self.initramfs {
            Some(Some(initramfs)) => {
                let size = initramfs.value.size;
                match boot::place_initramfs(layout, needs.end, needs.initramfs_limit, size) {
                    Ok(_) => return,
                    Err(NoPlace { needed: None }) => return too_large(initramfs, kernel, problems),
                    Err(NoPlace { needed: Some(needed) }) => {
                        let line = problems.line(initramfs.at);
                        (needed, format!(" and the initramfs at line {line}, which need"))
                    }
                }
            }
            _ if needs.end <= layout.low_ram().end() => return,
            _ => (needs.end, ", which needs".to_owned()),
        };
        let (line, needed) = (problems.line(kernel.at), needed.div_ceil(1 << 20));
        let why = format!("too little for the kernel at line {line}{what} {needed} MiB");
        let remedy = "give the machine more memory, and what the guest needs to run";
        problems.report(memory.at, "machine.memory", &Refusal::new(why, remedy));
    }

    fn fit_cmdline(&self, kernel: usize, most: u64, problems: &mut Problems<'_>) {
        let Some(cmdline) = &self.cmdline else { return };
        let len = cmdline.value.len();
        if len as u64 > most {
            let line = problems.line(kernel);
            let why = format!("the kernel at line {line} takes {most} bytes, and these are {len}");
            problems.report(cmdline.at, "boot.cmdline", &Refusal::new(why, "shorten it"));
        }
    }

    /// The specification, if nothing of it was refused.
    pub(super) fn into_spec(self) -> Option<BootSpec> {
        Some(BootSpec {
            kernel: self.kernel?.value.path,
            initramfs: self.initramfs?.map(|initramfs| initramfs.value.path),
            cmdline: self.cmdline?.value,
        })
    }
}

fn too_large(initramfs: &Placed<Initramfs>, kernel: &Placed<Kernel>, problems: &mut Problems<'_>) {
    let line = problems.line(kernel.at);
    let why = format!("too large to lie where the kernel at line {line} looks for it");
    problems.report(initramfs.at, "boot.initramfs", &Refusal::new(why, "use a smaller one"));
}

fn kernel(path: PathBuf) -> Result<Kernel, Refusal> {
    let (file, _) = files::readable(&path)?;
    match kernel::needs(&path, file) {
        Ok(needs) => Ok(Kernel { path, needs }),
        Err(error) => {
            let why = match error {
                BootError::Kernel { why, .. } => why.to_string(),
                other => other.to_string(),
            };
            let why = format!("{} cannot be booted: {why}", path.display());
            Err(Refusal::new(why, kernel::NAME_A_KERNEL))
        }
    }
}

fn initramfs(path: PathBuf) -> Result<Initramfs, Refusal> {
    let (_, size) = files::readable(&path)?;
    Ok(Initramfs { path, size })
}
