//! What is asked of a device when something may have changed, and what comes of it.
//!
//! A logical unit whose device is gone, or another one, is hidden from its initiator; commands
//! under way end as their way to the device has it. It is shown again when the right device is
//! there again, by the same nexus, and has been examined as at first; its initiator finds it as
//! after power-on. Nothing else ever takes its place.

use std::io;
use std::sync::Arc;

use log::Level;

use super::errands::Wanted;
use super::{Connection, Presence, Watched};
use crate::host::ScsiHost;
use crate::lun::passthrough::identity::Unknown;
use crate::lun::passthrough::pin::Mistaken;
use crate::lun::passthrough::presence::{Absent, Sight, is_gone};
use crate::scsi::sense::SenseCode;

/// Asks what is wanted. Blocks as long as the device does not answer.
pub(super) fn carry_out(unit: &dyn Watched, wanted: Wanted) {
    let watch = unit.watch();
    if wanted.has(Wanted::LOST) {
        let_go(unit);
    }
    if !watch.pin.is_trusted() {
        find_out(unit);
    }
    if wanted.has(Wanted::CHECK) {
        watch.pin.end_check();
    }
    if wanted.has(Wanted::ABOUT_IT) {
        examine(unit, wanted);
    }
    if wanted.has(Wanted::PATHS) && watch.pin.is_trusted() {
        unit.host().refresh_paths();
    }
    if wanted.has(Wanted::RESERVATIONS) && watch.pin.is_trusted() {
        look_at_reservations(unit);
    }
    watch.wake();
}

/// Finds out who is there.
fn find_out(unit: &dyn Watched) {
    /// Suspicions that come faster than they are answered leave it suspect.
    const ATTEMPTS: usize = 4;
    for attempt in 0..ATTEMPTS {
        let connected = unit.watch().presence().connected;
        let is_clear = if connected { check(unit, attempt) } else { reconnect(unit) };
        if is_clear {
            return;
        }
    }
}

/// Checks the device that is open; returns whether there is nothing more to ask.
fn check(unit: &dyn Watched, attempt: usize) -> bool {
    let (watch, host) = (unit.watch(), unit.host());
    let checked = match watch.ask(host.as_ref(), |host| watch.pin.check(host)) {
        Ok(checked) => checked,
        Err(Mistaken::Unknown(Unknown::Io(error))) if is_gone(&error) => {
            return miss(unit, attempt, &error);
        }
        Err(mistaken) if mistaken.is_certain() => {
            let complaint = format!("{mistaken}; its initiator sees it as gone");
            hide(unit, &mut watch.presence(), &complaint);
            return true;
        }
        Err(mistaken) => {
            watch.presence().complain(Level::Warn, unit, &mistaken.to_string());
            return true;
        }
    };
    if watch.presence().hidden && !examine_again(unit, host.as_ref()) {
        return true;
    }
    let is_trusted = watch.pin.trust(checked);
    if is_trusted {
        show(unit, &mut watch.presence());
    }
    is_trusted
}

/// The host says that the device is not there, as it also does of one that is offline: what sysfs
/// shows tells them apart. Where that shows nothing wrong, what is open is a device of former
/// times, unless it was offline just now. Returns whether there is nothing more to ask.
fn miss(unit: &dyn Watched, attempt: usize, error: &io::Error) -> bool {
    let sight = unit.watch().presence().place.look();
    match sight {
        Sight::Offline | Sight::Blocked => {
            unit.watch().presence().complain(Level::Warn, unit, &error.to_string());
            return true;
        }
        Sight::Running(_) if attempt == 0 => {}
        Sight::Running(_) | Sight::Gone => let_go(unit),
    }
    false
}

/// Opens the device again, where it was and then where the host has its address now; returns
/// whether there is nothing more to ask.
fn reconnect(unit: &dyn Watched) -> bool {
    let watch = unit.watch();
    let node = watch.presence().place.node().filter(|node| *node != watch.path);
    let mut complaint = None;
    for path in [Some(watch.path.clone()), node].into_iter().flatten() {
        let outcome = match unit.connect(&path) {
            Ok(connection) => return_by(unit, connection),
            Err(error) => Err(format!("{error}")),
        };
        match outcome {
            Ok(is_clear) => return is_clear,
            Err(why) => {
                complaint.get_or_insert_with(|| format!("gone; {} {why}", path.display()));
            }
        }
    }
    watch.presence().complain(Level::Warn, unit, &complaint.unwrap_or_default());
    true
}

/// Goes on by `connection`, if that is the right device and by the right nexus; otherwise says what
/// it is.
fn return_by(unit: &dyn Watched, connection: Connection) -> Result<bool, String> {
    let watch = unit.watch();
    let Connection { host, place } = connection;
    if !place.shares_nexus_with(&watch.presence().place) {
        return Err("is reached by another nexus".into());
    }
    // The host makes it last.
    if place.block.is_none() && watch.presence().place.block.is_some() {
        return Err("has no block node yet".into());
    }
    let checked = watch.pin.check(host.as_ref()).map_err(|mistaken| mistaken.to_string())?;
    {
        let mut presence = watch.presence();
        *presence = Presence::new(place, presence.hidden);
    }
    unit.set_host(Arc::clone(&host));
    if !examine_again(unit, host.as_ref()) {
        return Ok(true);
    }
    let is_trusted = watch.pin.trust(checked);
    if is_trusted {
        show(unit, &mut watch.presence());
    }
    Ok(is_trusted)
}

/// Examines a device that comes back; the initiator, who finds it as after power-on, needs none
/// of the unit attentions.
fn examine_again(unit: &dyn Watched, host: &dyn ScsiHost) -> bool {
    match unit.refresh(host) {
        Ok(()) => true,
        Err(why) => {
            unit.watch().presence().complain(Level::Warn, unit, &why);
            false
        }
    }
}

/// Examines the device that is there, and tells the initiator what has changed.
fn examine(unit: &dyn Watched, wanted: Wanted) {
    let watch = unit.watch();
    if watch.presence().hidden {
        // It is examined when it comes back.
        return;
    }
    let host = unit.host();
    let refreshed = match watch.pin.is_trusted() {
        true => watch.ask(host.as_ref(), |host| unit.refresh(host)),
        false => Err("is not known to be the right one".into()),
    };
    if let Err(why) = refreshed {
        watch.presence().complain(Level::Warn, unit, &why);
        watch.errands.postpone(wanted);
        return;
    }
    let now = watch.clock.now();
    if wanted.has(Wanted::LIMITS) {
        watch.mirror.should_raise(SenseCode::INQUIRY_DATA_HAS_CHANGED, now);
    }
    if wanted.has(Wanted::CAPACITY) {
        watch.mirror.should_raise(SenseCode::CAPACITY_DATA_HAS_CHANGED, now);
    }
    let Some(events) = unit.events() else { return };
    for (heard, code) in [
        (Wanted::HEARD_OF_PARAMETERS, SenseCode::MODE_PARAMETERS_CHANGED),
        (Wanted::HEARD_OF_CAPACITY, SenseCode::CAPACITY_DATA_HAS_CHANGED),
    ] {
        if wanted.has(heard) {
            events.parameters_changed(code);
        }
    }
}

fn look_at_reservations(unit: &dyn Watched) {
    let (watch, host) = (unit.watch(), unit.host());
    let Some(reservations) = &watch.reservations else { return };
    match watch.ask(host.as_ref(), |host| reservations.poll(host)) {
        Ok(changes) => {
            let now = watch.clock.now();
            changes.into_iter().for_each(|code| watch.mirror.should_raise(code, now));
        }
        Err(error) => {
            let complaint = format!("its reservations cannot be read: {error}");
            watch.presence().complain(Level::Warn, unit, &complaint);
        }
    }
}

/// The host has given the device up: nothing of it is held any more.
fn let_go(unit: &dyn Watched) {
    let mut presence = unit.watch().presence();
    if presence.connected {
        presence.connected = false;
        hide(unit, &mut presence, "the host has removed its device");
        drop(presence);
        unit.set_host(Arc::new(Absent));
    }
}

/// Lets nothing through any more, and takes the logical unit out of its initiator's sight.
pub(super) fn hide(unit: &dyn Watched, presence: &mut Presence, why: &str) {
    unit.watch().pin.close();
    presence.complain(Level::Error, unit, why);
    presence.hidden = true;
    presence.tell(unit);
}

fn show(unit: &dyn Watched, presence: &mut Presence) {
    presence.complaint.clear();
    if presence.hidden {
        log::info!("{}: is back", unit.name());
        presence.hidden = false;
        if let Some(events) = unit.events() {
            let (code, watch) = (SenseCode::POWER_ON_OCCURRED, unit.watch());
            // The host has met the device's own, and tells of it.
            watch.mirror.claim(code, watch.clock.now());
            events.attention(code);
        }
        presence.tell(unit);
    }
}
