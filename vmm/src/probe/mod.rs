//! `vmm probe`: a device of the host as a guest would see it.
//!
//! The device is opened for looking only: nothing is taken or changed, and the host may be using
//! it. [`look`] asks ([`ask`], [`pages`], [`fields`], [`limits`], [`commands`], [`reservations`],
//! [`missing`]) and fills in [`model`], which [`text`] shows to a person and [`json`] to a program.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use storage::host::broker::Broker;
use storage::host::privileged::Privileged;
use storage::host::sg::SgDevice;
use storage::host::{Options, filter, privilege};
use storage::lun;
use storage::lun::spec::{LunSpec, PassthroughSpec};

use self::commands::Senders;
use self::look::Subject;
use self::model::{Device, Missing};
use crate::cli::Probe;
use crate::printable::printable;
use crate::{FAILED, refuse};

mod ask;
mod commands;
mod fields;
mod json;
mod limits;
mod look;
mod missing;
mod model;
mod pages;
mod reservations;
#[cfg(test)]
mod tests;
mod text;

/// Looks at a device and tells of it on standard output.
pub(crate) fn run(options: &Probe) -> ExitCode {
    let spec = options.spec();
    let path = printable(&spec.path.to_string_lossy());
    let device = match SgDevice::watch(&spec.path) {
        Ok(device) => Arc::new(device),
        Err(error) => {
            let why = format!("{path} {error}; {}", error.remedy(&spec.path));
            return refuse(&printable(&why));
        }
    };
    let direct = |cdb: &[u8]| carries(device.node(), !spec.read_only, cdb);
    let broker = spec.broker.as_deref();
    let broker = broker.map(|path| Arc::new(Broker::new(path).with_reconnect(Duration::ZERO)));
    let by_broker = |cdb: &[u8]| broker.as_ref().is_some_and(|it| it.can(device.as_fd(), cdb));
    let host = Privileged::new(device.clone(), broker.clone());
    let subject = Subject {
        spec: &spec,
        host: &host,
        device: whereabouts(&device),
        senders: Senders { direct: &direct, broker: broker.is_some().then_some(&by_broker) },
        missing: obstacles(&spec, &device),
    };
    let report = match look::report(subject) {
        Ok(report) => report,
        Err(error) => {
            let _ = refuse(&printable(&format!("{path} {error}; see the host's log")));
            return FAILED.into();
        }
    };
    let shown = if options.json { json::json(&report) } else { text::Text(&report).to_string() };
    // The status tells all the same.
    let _ = io::stdout().write_all(shown.as_bytes());
    ExitCode::SUCCESS
}

/// What the LUN `spec` is in a few words, if its device can be asked.
pub(crate) fn summary(spec: &PassthroughSpec) -> Option<String> {
    look::summary(spec, &SgDevice::watch(&spec.path).ok()?)
}

/// Whether the kernel carries `cdb` for a guest's VMM that runs as this process does.
fn carries(node: &Path, writable: bool, cdb: &[u8]) -> bool {
    let is_sg = fs::metadata(node).is_ok_and(|node| node.file_type().is_char_device());
    (is_sg && writable) || filter::kernel_allows(cdb, writable) || privilege::has_rawio()
}

/// What the host tells of it.
fn whereabouts(host: &SgDevice) -> Device {
    let paths = |paths: Vec<std::path::PathBuf>| {
        paths.iter().map(|path| printable(&path.to_string_lossy())).collect()
    };
    let ports = host.ports();
    let shown = |text: String| printable(&text);
    Device {
        nodes: paths(host.nodes()),
        address: host.address().map(|address| address.to_string()),
        transport: host.transport().map(shown),
        initiator_port: ports.initiator.map(shown),
        target_port: ports.target.map(shown),
        paths: paths(host.legs()),
        in_use: host.users().into_iter().map(shown).collect(),
        attentions: Vec::new(),
    }
}

/// What would keep a guest from having it now.
fn obstacles(spec: &PassthroughSpec, device: &SgDevice) -> Vec<Missing> {
    let opened = lun::check(&LunSpec::Passthrough(spec.clone()));
    let refused = opened.err().map(|error| {
        missing::line("a guest cannot open it", printable(&error.why()), printable(&error.remedy()))
    });
    let broker = spec.broker.as_deref().and_then(|path| UnixStream::connect(path).err());
    let broker = broker.map(|error| {
        let effect = format!("does not serve ({error}), and so its commands are refused");
        missing::line("the broker", effect, "start it, or correct its path")
    });
    let paths = device.legs().into_iter().filter_map(|path| no_path(spec, &path));
    refused.into_iter().chain(broker).chain(paths).collect()
}

/// Why nothing is reserved by this path of a map.
fn no_path(spec: &PassthroughSpec, path: &Path) -> Option<Missing> {
    let options = Options { read_only: spec.read_only, shared_nexus: true, force: true };
    let error = SgDevice::check(path, &options).err()?;
    let what = format!("the path {}", printable(&path.to_string_lossy()));
    let effect = printable(&format!("no reservations go by it: it {error}"));
    Some(missing::line(what, effect, printable(&error.remedy(path))))
}
