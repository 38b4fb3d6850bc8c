//! A reset of the device itself, by way of a nexus that nobody else uses.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::unit::Unit;
use super::watch::Watched;

type Done = Box<dyn FnOnce() + Send>;

/// Bytes of the thread's stack.
const STACK: usize = 256 << 10;

/// Has the device end the commands that it has, in a thread of its own, and calls `done` then.
pub(super) fn begin(unit: &Arc<Unit>, done: Done) {
    let done = Arc::new(Mutex::new(Some(done)));
    let (unit, left) = (Arc::clone(unit), Arc::clone(&done));
    let name = unit.spec.path.display().to_string();
    let spawned =
        thread::Builder::new().name("lun-reset".into()).stack_size(STACK).spawn(move || {
            if let Err(why) = reset(&unit) {
                complain(&unit, &why);
            }
            call(&left);
        });
    if let Err(error) = spawned {
        log::warn!("{name}: no thread to reset the device: {error}");
        call(&done);
    }
}

/// Says once why the device is not reset. Its commands are waited for all the same.
fn complain(unit: &Unit, why: &str) {
    if !unit.not_reset.swap(true, Ordering::Relaxed) {
        log::warn!("{}: the device is not reset: {why}", unit.spec.path.display());
    }
}

/// Another device that took its place keeps its commands.
fn reset(unit: &Unit) -> Result<(), String> {
    unit.watch().admit(|| unit.is_ending()).map_err(|refusal| refusal.to_string())?;
    unit.host().reset_logical_unit().map_err(|error| error.to_string())
}

fn call(done: &Mutex<Option<Done>>) {
    let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(done) = done {
        done();
    }
}
