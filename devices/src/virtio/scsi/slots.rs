//! The open requests of one queue: where each answer goes, and the memory of its buffers.

use std::sync::Arc;

use storage::buffer::DataBuf;
use storage::task::{Ticket, Token};

use super::mailbox::Mailbox;
use crate::virtio::chain::Segments;

/// One place for a request, used again and again.
#[derive(Debug)]
struct Slot {
    /// Here while the place is free.
    ticket: Option<Ticket>,
    generation: u32,
    segments: Segments,
    open: Option<Open>,
}

/// What is remembered of a request until it is answered.
#[derive(Debug)]
pub(super) struct Open {
    /// Where its chain begins.
    pub(super) head: u16,
    /// Where its response goes.
    pub(super) response: DataBuf,
    /// Bytes of its data-in buffer.
    pub(super) data_in_len: u32,
}

/// As many places as the queue has entries, so that a driver cannot make us remember more.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// A place that was taken: the ticket for its task, and the memory for its segments.
pub(super) struct Taken<'a> {
    pub(super) ticket: Ticket,
    pub(super) place: u32,
    pub(super) segments: &'a mut Segments,
}

impl Slots {
    pub(super) fn new(count: u16, mailbox: &Arc<Mailbox>) -> Slots {
        let slot = |_| Slot {
            ticket: Some(Ticket::new(Arc::clone(mailbox) as _)),
            generation: 0,
            segments: Segments::default(),
            open: None,
        };
        Slots { slots: (0..count).map(slot).collect(), free: (0..u32::from(count)).rev().collect() }
    }

    /// Whether every place is free.
    pub(super) fn are_free(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Never frees the segments of any request.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        self.free.clear();
    }

    /// Whether there is a free place.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a free place.
    pub(super) fn take(&mut self) -> Option<Taken<'_>> {
        let place = self.free.pop()?;
        let slot = self.slots.get_mut(place as usize)?;
        let token = Token { place, generation: slot.generation };
        let ticket = slot.ticket.take()?.with_token(token);
        Some(Taken { ticket, place, segments: &mut slot.segments })
    }

    /// Remembers what the request at `place` needs for its answer.
    pub(super) fn open(&mut self, place: u32, open: Open) {
        if let Some(slot) = self.slots.get_mut(place as usize) {
            slot.open = Some(open);
        }
    }

    /// Ends the request that `ticket` names and frees its place. `None` if the name is out of
    /// date: the place has served another request since.
    pub(super) fn close(&mut self, ticket: Ticket) -> Option<Open> {
        let Token { place, generation } = ticket.token();
        let slot = self.slots.get_mut(place as usize)?;
        if slot.generation != generation || slot.ticket.is_some() {
            log::error!("bug: request {place} was answered twice");
            return None;
        }
        slot.ticket = Some(ticket);
        slot.generation = generation.wrapping_add(1);
        self.free.push(place);
        slot.open.take()
    }
}
