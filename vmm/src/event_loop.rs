//! The main thread's loop: it carries input to the guest and waits for a reason to end.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use event_manager::{
    Error as LoopError, EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps,
};
use vmm_sys_util::eventfd::EventFd;

use crate::console::{Input, Typed};
use crate::exit::Exit;
use crate::machine::Machine;
use crate::signals::Signals;

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest stopped.
    Guest(Exit),
    /// Somebody wants the VMM to end: who.
    Forced(&'static str),
}

/// The events that the loop waits for; their numbers are those of the epoll entries.
#[derive(Clone, Copy, Debug)]
enum Source {
    Exit = 1,
    Signal = 2,
    Room = 3,
    Input = 4,
}

/// What the loop works on.
pub(crate) struct EventLoop<'a> {
    machine: &'a Machine,
    signals: &'a Signals,
    input: Input,
    room: EventFd,
    /// Whether the input is waited for.
    listening: bool,
    /// Whether reading the input never waits: it is a file, which epoll refuses.
    always_ready: bool,
    end: Option<Result<End, LoopError>>,
}

impl<'a> EventLoop<'a> {
    /// A loop for a machine whose serial port signals `room`.
    pub(crate) fn new(
        machine: &'a Machine,
        signals: &'a Signals,
        input: Input,
        room: EventFd,
    ) -> Self {
        EventLoop {
            machine,
            signals,
            input,
            room,
            listening: false,
            always_ready: false,
            end: None,
        }
    }

    /// Waits until the guest stops or somebody wants the VMM to end.
    ///
    /// # Errors
    /// When the host refuses to wait.
    pub(crate) fn run(self) -> Result<End, LoopError> {
        let mut manager = EventManager::new()?;
        let id = manager.add_subscriber(self);
        loop {
            if let Some(end) = manager.subscriber_mut(id)?.end.take() {
                return end;
            }
            manager.run()?;
        }
    }

    fn forced(&mut self, by: &'static str) {
        self.end.get_or_insert(Ok(End::Forced(by)));
    }

    fn on_exit(&mut self) -> io::Result<()> {
        self.machine.exit_event().read()?;
        if let Some(exit) = self.machine.exit() {
            self.end.get_or_insert(Ok(End::Guest(exit)));
        }
        Ok(())
    }

    fn on_signal(&mut self) -> io::Result<()> {
        if let Some(signal) = self.signals.next()? {
            self.forced(signal);
        }
        Ok(())
    }

    fn on_input(&mut self) {
        if self.input.read() == Typed::Quit {
            self.forced("Ctrl-A X");
        }
        self.offer();
    }

    fn on_room(&mut self) -> io::Result<()> {
        self.room.read()?;
        self.offer();
        Ok(())
    }

    fn offer(&mut self) {
        self.input.offer(|bytes| self.machine.serial().enqueue(bytes));
    }

    /// Waits for input exactly while it is wanted.
    fn listen(&mut self, ops: &mut EventOps<'_>) -> Result<(), LoopError> {
        while self.always_ready && self.input.wants_more() {
            self.on_input();
        }
        let wanted = self.input.wants_more() && !self.always_ready;
        if wanted == self.listening {
            return Ok(());
        }
        let events = watch(&self.input, Source::Input);
        if !wanted {
            ops.remove(events)?;
        } else if let Err(error) = ops.add(events) {
            return self.read_without_waiting(error, ops);
        }
        self.listening = wanted;
        Ok(())
    }

    fn read_without_waiting(
        &mut self,
        error: LoopError,
        ops: &mut EventOps<'_>,
    ) -> Result<(), LoopError> {
        match error {
            LoopError::Epoll(errno) if errno.errno() == libc::EPERM => {
                self.always_ready = true;
                self.listen(ops)
            }
            other => Err(other),
        }
    }

    fn begin(&mut self, ops: &mut EventOps<'_>) -> Result<(), LoopError> {
        ops.add(watch(self.machine.exit_event(), Source::Exit))?;
        ops.add(watch(self.signals, Source::Signal))?;
        ops.add(watch(&self.room, Source::Room))?;
        self.listen(ops)
    }

    fn serve(&mut self, events: Events, ops: &mut EventOps<'_>) -> Result<(), LoopError> {
        let served = match events.data() {
            source if source == Source::Exit as u32 => self.on_exit(),
            source if source == Source::Signal as u32 => self.on_signal(),
            source if source == Source::Room as u32 => self.on_room(),
            _ => {
                self.on_input();
                Ok(())
            }
        };
        // An event that somebody else took is no error.
        if let Err(error) = served
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::warn!("the main loop cannot read an event: {error}");
        }
        self.listen(ops)
    }
}

fn watch(source: &impl AsRawFd, name: Source) -> Events {
    let fd: RawFd = source.as_raw_fd();
    Events::with_data_raw(fd, name as u32, EventSet::IN)
}

impl MutEventSubscriber for EventLoop<'_> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if let Err(error) = self.serve(events, ops) {
            self.end.get_or_insert(Err(error));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = self.begin(ops) {
            self.end.get_or_insert(Err(error));
        }
    }
}
