use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

const LONG: Duration = Duration::from_secs(60);

fn gate(lanes: u16) -> Gate {
    Gate::new(&Arc::new(Wakers::new(lanes).unwrap()))
}

/// How often `lane` was woken since it was asked last.
fn woken(gate: &Gate, lane: usize) -> u64 {
    gate.wakers.event(lane).unwrap().read().unwrap_or(0)
}

#[test]
fn a_change_waits_for_the_commands_inside() {
    let gate = gate(2);
    assert_eq!(gate.enter(1), Passage::Open);
    let changed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            gate.exclude(LONG, || (changed.store(true, Ordering::SeqCst), Passage::Open))
        });
        while gate.passage() == Passage::Open {
            thread::yield_now();
        }
        assert_eq!(gate.enter(0), Passage::Closed);
        assert_eq!(gate.enter_at_head(0), Passage::Closed);
        assert!(!changed.load(Ordering::SeqCst));
        gate.leave(1, Admission::Simple);
    });
    assert!(changed.load(Ordering::SeqCst));
    assert_eq!(gate.enter(0), Passage::Open);
}

#[test]
fn a_change_gives_up_after_its_timeout() {
    let gate = gate(1);
    assert_eq!(gate.enter(0), Passage::Open);
    let change = || -> ((), Passage) { panic!("a command is still inside") };
    assert_eq!(gate.exclude(Duration::from_millis(1), change), None);
    assert_eq!(gate.passage(), Passage::Open);
}

#[test]
fn no_command_is_inside_during_a_change() {
    let gate = gate(3);
    let (inside, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let visit = |lane, admission| {
        inside.fetch_add(1, Ordering::SeqCst);
        inside.fetch_sub(1, Ordering::SeqCst);
        gate.leave(lane, admission);
    };
    let simple = |lane| {
        while !stop.load(Ordering::Relaxed) {
            if gate.enter(lane) == Passage::Open {
                visit(lane, Admission::Simple);
            }
        }
    };
    let head = |lane| {
        while !stop.load(Ordering::Relaxed) {
            if gate.enter_at_head(lane) == Passage::Open {
                visit(lane, Admission::Head);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| simple(0));
        scope.spawn(|| simple(1));
        scope.spawn(|| head(2));
        for _ in 0..2000 {
            let seen = gate.exclude(LONG, || (inside.load(Ordering::SeqCst), Passage::Open));
            assert_eq!(seen, Some(0));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_gate_that_is_gone_stays_so() {
    let gate = gate(1);
    gate.exclude(LONG, || ((), Passage::Gone));
    for passage in [gate.enter(0), gate.enter_at_head(0), gate.take_turn(0)] {
        assert_eq!(passage, Passage::Gone);
    }
    assert!(!gate.is_busy());
}

#[test]
fn a_turn_comes_when_older_commands_have_left_and_younger_ones_wait() {
    let gate = gate(2);
    assert_eq!(gate.enter(0), Passage::Open);
    gate.line_up(1);
    assert_eq!(gate.take_turn(1), Passage::Closed, "an older command is inside");
    assert_eq!(gate.enter(0), Passage::Closed, "a younger command waits");
    woken(&gate, 1);
    gate.leave(0, Admission::Simple);
    assert_ne!(woken(&gate, 1), 0, "its lane hears that it is alone");
    assert_eq!(gate.take_turn(1), Passage::Open);
    assert_eq!(gate.enter(0), Passage::Closed);
    woken(&gate, 0);
    gate.leave(1, Admission::Turn);
    assert_ne!(woken(&gate, 0), 0, "those that wait hear that the gate is open");
    assert_eq!(gate.enter(0), Passage::Open);
}

#[test]
fn turns_are_taken_in_the_order_of_the_line() {
    let gate = gate(2);
    gate.line_up(0);
    gate.line_up(1);
    assert_eq!(gate.take_turn(1), Passage::Closed);
    assert_eq!(gate.take_turn(0), Passage::Open);
    assert_eq!(gate.take_turn(1), Passage::Closed, "one at a time");
    gate.leave(0, Admission::Turn);
    assert_eq!(gate.take_turn(1), Passage::Open);
}

#[test]
fn whoever_steps_out_of_the_line_keeps_nobody_waiting() {
    let gate = gate(2);
    gate.line_up(0);
    gate.line_up(1);
    woken(&gate, 1);
    gate.step_out(0);
    assert_ne!(woken(&gate, 1), 0);
    gate.step_out(1);
    assert_eq!(gate.enter(0), Passage::Open);
}

#[test]
fn the_head_of_the_queue_passes_ordered_commands_and_holds_up_younger_ones() {
    let gate = gate(2);
    gate.line_up(0);
    assert_eq!(gate.take_turn(0), Passage::Open);
    assert_eq!(gate.enter_at_head(1), Passage::Open);
    gate.leave(0, Admission::Turn);
    assert_eq!(gate.enter(0), Passage::Closed, "younger than the head of the queue");
    gate.leave(1, Admission::Head);
    assert_eq!(gate.enter(0), Passage::Open);
}

#[test]
fn a_hold_keeps_everything_out_and_a_quarantine_says_so() {
    let gate = gate(1);
    gate.line_up(0);
    gate.hold();
    for passage in [gate.enter(0), gate.enter_at_head(0), gate.take_turn(0)] {
        assert_eq!(passage, Passage::Closed);
    }
    gate.quarantine();
    for passage in [gate.enter(0), gate.enter_at_head(0), gate.take_turn(0)] {
        assert_eq!(passage, Passage::Quarantined);
    }
    gate.release();
    woken(&gate, 0);
    gate.end_quarantine();
    assert_ne!(woken(&gate, 0), 0);
    assert_eq!(gate.take_turn(0), Passage::Open);
}
