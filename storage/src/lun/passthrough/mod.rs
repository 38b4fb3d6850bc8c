//! A SCSI device of the host as a logical unit: its commands, data, status and sense reach the
//! initiator unchanged, except where the initiator or the host would break.
//!
//! | file | role |
//! |---|---|
//! | [`route`] | what becomes of a command: answered here, or forwarded |
//! | [`worker`] | a forwarded command, in a thread of its logical unit's own |
//! | [`outcome`] | what its end means to the initiator |
//! | [`retry`] | waiting between attempts |
//! | [`unit`] | what the logical unit is at present |

use std::io;
use std::sync::Arc;

use super::spec::PassthroughSpec;
use super::{LogicalUnit, Submitted, UnitEvents};
use crate::engine::IoContext;
use crate::engine::workers::{Capacity, Refused, Workers};
use crate::host::OpenError;
use crate::host::multipath::Multipath;
use crate::host::nexus::Nexus;
use crate::host::sg::SgDevice;
use crate::host::sysfs::Ports;
use crate::scsi::cdb::Cdb;
use crate::scsi::status::Status;
use crate::task::{Response, Task};

mod bounce;
pub mod counters;
pub mod device;
pub mod facts;
pub mod fixup;
mod flush;
pub mod identity;
pub mod limits;
pub mod mirror;
mod outcome;
pub mod pin;
pub mod policy;
pub mod presence;
pub mod reservations;
mod reset;
mod retry;
mod route;
pub mod split;
pub mod unit;
pub mod view;
pub mod watch;
mod worker;

use counters::Event;
use device::Device;
use pin::Pin;
use route::Route;
use unit::Unit;
use view::View;
use watch::{Watched, Watcher};
use worker::Forward;

/// A passthrough logical unit.
#[derive(Debug)]
pub struct Passthrough {
    unit: Arc<Unit>,
    workers: Workers<Forward>,
    /// Kept from others, where initiators fence each other by it.
    _nexus: Option<Nexus>,
}

impl Passthrough {
    /// Commands at the device at a time where its specification asks for no more.
    pub const MAX_DEPTH: u16 = 64;
    /// Threads of a logical unit.
    pub const MAX_THREADS: u16 = 256;
    /// Commands that wait for a thread: more than one driver sends before it is answered.
    const WAITING: usize = 1024;
    /// Bytes of a thread's stack, which holds no data.
    const STACK: usize = 256 << 10;

    /// A logical unit on `device`.
    ///
    /// # Errors
    /// [`OpenError`] when the device does not say what it is, or is not what it should be.
    pub fn new(spec: &PassthroughSpec, device: Device) -> Result<Passthrough, OpenError> {
        let host = device.host.as_ref();
        let view = View::of(spec, host).map_err(|why| OpenError::Unidentified(why.to_string()))?;
        let pin = Pin::new(spec.expect.as_ref(), host)?;
        let depth = view.host.queue_depth.min(Passthrough::MAX_DEPTH);
        let depth = spec.queue_depth.unwrap_or(depth).clamp(1, Passthrough::MAX_THREADS);
        let capacity = Capacity {
            threads: depth.into(),
            waiting: Passthrough::WAITING,
            stack: Some(Passthrough::STACK),
        };
        let nexus = nexus(spec, &view, &device.place.ports)?;
        let unit = Arc::new(Unit::new(spec, device, view, pin));
        let watched = Arc::clone(&unit) as Arc<dyn Watched>;
        Watcher::of_process().map_err(OpenError::Watch)?.watch(&watched);
        Ok(Passthrough { unit, workers: Workers::new("lun", capacity), _nexus: nexus })
    }

    /// What the logical unit is at present.
    #[must_use]
    pub fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    fn forward(&self, forward: Forward) -> Submitted {
        let (forward, status) = match self.workers.start(forward) {
            Ok(()) => return Submitted::Pending,
            Err(Refused::Full(forward)) => (forward, Status::TASK_SET_FULL),
            // This thread has others to serve.
            Err(Refused::NoThread(forward)) => (forward, Status::BUSY),
        };
        self.unit.counters.count(Event::Refused);
        let resid = forward.task.buffer_len();
        Submitted::Done(forward.task.answer(Response::Status { status, sense: None, resid }))
    }
}

impl LogicalUnit for Passthrough {
    fn submit(&self, task: Task, _: &mut IoContext) -> Submitted {
        let answer = match route::route(&self.unit, self.unit.view(), &task) {
            Ok(Route::Forward(plan)) => {
                return self.forward(Forward { unit: Arc::clone(&self.unit), task, plan });
            }
            Ok(Route::Good) => {
                let resid = task.buffer_len();
                task.answer(Response::good(resid))
            }
            Ok(Route::Data { bytes, allocation_length }) => {
                return Submitted::Done(task.answer_data(&bytes, allocation_length));
            }
            Ok(Route::Fail(why)) => task.answer(Response::Failed(why)),
            Err(sense) => task.answer_sense(sense),
        };
        Submitted::Done(answer)
    }

    fn attached(&self, events: Arc<dyn UnitEvents>) {
        self.workers.rename(&format!("lun-{}", events.label()));
        self.unit.attach(events);
    }

    /// Nothing: the device orders what it is sent, and knows what its own commands change.
    fn runs_alone(&self, _: &Cdb) -> bool {
        false
    }

    fn cancel_aborted(&self) {
        self.workers.cancel_aborted();
        self.unit.wake();
    }

    fn begin_reset(&self, done: Box<dyn FnOnce() + Send>) {
        if self.unit.has_private_nexus() {
            reset::begin(&self.unit, done);
        } else {
            // Other users of the nexus have commands there too: ours end by themselves.
            done();
        }
    }

    fn reset(&self) {
        self.unit.set_stopped(false);
    }

    fn flush(&self) -> io::Result<()> {
        flush::flush(&self.unit)
    }

    fn descriptor_sense(&self) -> bool {
        self.unit.view().facts.descriptor_sense
    }

    fn max_transfer(&self) -> u64 {
        self.unit.view().limits.max_transfer()
    }

    fn max_segments(&self) -> u32 {
        self.unit.view().limits.max_segments
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.unit.end();
    }
}

/// Takes the nexus between `ports`, where the policy promises one of its own.
fn nexus(spec: &PassthroughSpec, view: &View, ports: &Ports) -> Result<Option<Nexus>, OpenError> {
    match view.facts.identity() {
        Some(unit) if view.policy.fences() && !spec.shared_nexus => Nexus::take(&unit, ports),
        _ => Ok(None),
    }
}

/// Opens the device, and takes it until it is dropped.
pub(super) fn open(spec: &PassthroughSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    Ok(Arc::new(Passthrough::new(spec, Device::open(spec, &spec.path)?)?))
}

/// Finds out whether [`open`] would succeed.
pub(super) fn check(spec: &PassthroughSpec) -> Result<(), OpenError> {
    let options = device::options(spec);
    SgDevice::check(&spec.path, &options)?;
    let device = SgDevice::watch(&spec.path)?;
    Multipath::check(&device, &options)?;
    // INQUIRY takes nobody's unit attention.
    Pin::new(spec.expect.as_ref(), &device).map(drop)
}
