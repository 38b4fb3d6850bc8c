use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::channel::Channel;
use super::protocol::{EXTENDED, Header, plain};
use super::*;
use crate::host::{Data, HostStatus};
use crate::scsi::status::Status;
use crate::testing::OwnedBuf;

/// A broker that a test plays: what it offers, and what it does with each connection.
struct Played {
    folder: tempfile::TempDir,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Played {
    fn new(offers: u32, play: impl Fn(usize, &Channel) + Send + 'static) -> Played {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                let channel = Channel::new(socket.unwrap()).unwrap();
                channel.send(&offers.to_be_bytes(), None, soon()).unwrap();
                let mut wanted = [0; 4];
                if channel.receive(&mut wanted, soon()).is_ok() {
                    assert_eq!(u32::from_be_bytes(wanted), offers & EXTENDED);
                    play(number, &channel);
                }
            }
        });
        Played { folder }
    }

    fn broker(&self) -> Broker {
        let socket = self.folder.path().join("socket");
        Broker::new(&socket).with_reconnect(Duration::from_millis(300))
    }
}

/// Takes a plain request: its CDB, and the parameter list.
fn take(channel: &Channel) -> Option<([u8; 16], Vec<u8>)> {
    let mut cdb = [0; 16];
    let fd = channel.receive_with_fd(&mut cdb, soon()).ok()?;
    assert!(fd.is_some(), "a descriptor comes with the CDB");
    let (direction, len) = plain::transfer(&cdb).unwrap();
    let mut list = vec![0; if direction == protocol::Direction::Out { len } else { 0 }];
    channel.receive(&mut list, soon()).unwrap();
    Some((cdb, list))
}

fn reply(channel: &Channel, status: Status, data: &[u8]) {
    let sense = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0];
    let start = plain::reply(status, &sense, u32::try_from(data.len()).unwrap());
    channel.send(&[&start[..], data].concat(), None, soon()).unwrap();
}

fn device() -> File {
    File::open("/dev/null").unwrap()
}

fn receive(broker: &Broker, cdb: &[u8], len: usize) -> io::Result<(Completion, Vec<u8>)> {
    let mut memory = OwnedBuf::zeroed(&[len]);
    // SAFETY: the buffer outlives the call.
    #[expect(unsafe_code, reason = "a buffer is lent")]
    let mut buf = unsafe { memory.lend() };
    let timeout = Duration::from_secs(1);
    let completion =
        broker.execute(device().as_fd(), Request { cdb, data: Data::In(&mut buf), timeout })?;
    Ok((completion, memory.bytes()))
}

fn send(broker: &Broker, cdb: &[u8], bytes: &[u8]) -> io::Result<Completion> {
    let mut memory = OwnedBuf::holding(bytes);
    // SAFETY: the buffer outlives the call.
    #[expect(unsafe_code, reason = "a buffer is lent")]
    let buf = unsafe { memory.lend() };
    let timeout = Duration::from_secs(1);
    broker.execute(device().as_fd(), Request { cdb, data: Data::Out(&buf), timeout })
}

fn read_keys(len: u16) -> [u8; 10] {
    let [high, low] = len.to_be_bytes();
    [0x5e, 0, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn a_helper_of_qemu_is_spoken_to_in_its_words() {
    let played = Played::new(0, |_, channel| {
        while let Some((cdb, list)) = take(channel) {
            if cdb[0] == 0x5f {
                assert_eq!(list, [7; 24]);
                reply(channel, Status::RESERVATION_CONFLICT, &[]);
            } else {
                assert_eq!(cdb[..10], read_keys(64));
                reply(channel, Status::GOOD, &[1, 2, 3, 4]);
            }
        }
    });
    let broker = played.broker();
    let (completion, data) = receive(&broker, &read_keys(64), 64).unwrap();
    let good = Completion { resid: 60, ..Completion::default() };
    assert_eq!((completion, &data[..5]), (good, &[1, 2, 3, 4, 0][..]));
    let register = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    // The buffer may be longer than the parameter list.
    let conflict = send(&broker, &register, &[7; 32]).unwrap();
    let expected = Completion {
        status: Status::RESERVATION_CONFLICT,
        sense: vec![],
        resid: 8,
        host_status: HostStatus::OK,
    };
    assert_eq!(conflict, expected);
    assert!(broker.can(device().as_fd(), &[0x5e, 3]) && !broker.can(device().as_fd(), &[0x89]));
}

#[test]
fn what_a_helper_of_qemu_cannot_carry_is_not_asked_of_it() {
    let played = Played::new(0, |_, channel| assert!(take(channel).is_none(), "it is asked"));
    let broker = played.broker();
    let error = send(&broker, &[0x89; 16], &[0; 1024]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let refused = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
    assert!(refused(broker.reset_logical_unit(device().as_fd()).unwrap_err()));
    assert!(refused(broker.create_vport(&Vport { host: 0, wwpn: 0, wwnn: 0 }).unwrap_err()));
    // A parameter list that is not there, or too long: PARAMETER LIST LENGTH ERROR.
    for cdb in [[0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0], [0x5f, 0, 0, 0, 0, 0, 1, 0, 24, 0]] {
        let completion = send(&broker, &cdb, &[0; 24]).unwrap();
        assert_eq!((completion.sense[2], completion.sense[12]), (5, 0x1a));
    }
    assert!(receive(&broker, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24).is_err());
}

#[test]
fn a_report_that_does_not_fit_the_protocol_is_refused_not_cut() {
    let played = Played::new(0, |_, channel| {
        let long = vec![9; plain::MAX_DATA];
        while let Some((cdb, _)) = take(channel) {
            assert_eq!(cdb[7..9], [0x20, 0]);
            reply(channel, Status::GOOD, if cdb[1] == 0 { &long } else { &long[..100] });
        }
    });
    let broker = played.broker();
    let (completion, _) = receive(&broker, &read_keys(0xffff), 0xffff).unwrap();
    assert_eq!(completion.status, Status::CHECK_CONDITION);
    assert_eq!((completion.sense[2], completion.sense[12]), (5, 0x24));
    assert_eq!(completion.sense[15..18], [0xc0, 0, 7]);
    let short = [0x5e, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
    let (completion, _) = receive(&broker, &short, 0xffff).unwrap();
    assert_eq!((completion.status, completion.resid), (Status::GOOD, 0xffff - 100));
}

#[test]
fn a_broker_that_lies_is_an_error() {
    let lies: [&[u8]; 5] = [
        &plain::reply(Status::GOOD, &[], 65),
        &plain::reply(Status::GOOD, &[], u32::MAX),
        &plain::reply(Status::CHECK_CONDITION, &[], 4),
        &[1; plain::REPLY_LEN],
        &plain::reply(Status::GOOD, &[], 0)[..50],
    ];
    for lie in lies {
        let bytes = lie.to_vec();
        let played = Played::new(0, move |_, channel| {
            let _ = take(channel).map(|_| channel.send(&bytes, None, soon()));
        });
        let error = receive(&played.broker(), &read_keys(64), 64).unwrap_err();
        let expected = [ErrorKind::InvalidData, ErrorKind::UnexpectedEof];
        assert!(expected.contains(&error.kind()), "{error:?}");
    }
    for lie in [[0xff; 24], [0; 24]] {
        let played = Played::new(EXTENDED, move |_, channel| {
            let _ = channel.receive_with_fd(&mut [0; Header::LEN], soon());
            // More data than there is room for.
            let mut lie = lie;
            lie[23] = 65;
            let _ = channel.send(&lie, None, soon());
        });
        let error = receive(&played.broker(), &read_keys(64), 64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_broker_that_vanishes_with_a_command_is_not_asked_again() {
    let taken = Arc::new(AtomicUsize::new(0));
    let played = Played::new(0, {
        let taken = Arc::clone(&taken);
        move |_, channel| {
            take(channel);
            taken.fetch_add(1, Ordering::SeqCst);
        }
    });
    let error = receive(&played.broker(), &read_keys(8), 8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[test]
fn a_broker_may_be_started_anew() {
    // Each connection serves one command.
    let ended = Arc::new(AtomicUsize::new(0));
    let played = Played::new(0, {
        let ended = Arc::clone(&ended);
        move |_, channel| {
            take(channel);
            reply(channel, Status::GOOD, b"x");
            channel.socket().shutdown(Shutdown::Both).unwrap();
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    let broker = played.broker();
    for count in 1..=5 {
        assert_eq!(receive(&broker, &read_keys(8), 8).unwrap().1[0], b'x');
        while ended.load(Ordering::SeqCst) < count {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_broker_that_comes_late_is_waited_for_and_one_that_never_comes_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let broker = Broker::new(&socket).with_reconnect(Duration::from_millis(200));
    assert_eq!(receive(&broker, &read_keys(8), 8).unwrap_err().kind(), ErrorKind::NotFound);
    let broker = Broker::new(&socket).with_reconnect(Duration::from_secs(60));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| receive(&broker, &read_keys(8), 8));
        thread::sleep(Duration::from_millis(50));
        let listener = UnixListener::bind(&socket).unwrap();
        let channel = Channel::new(listener.accept().unwrap().0).unwrap();
        channel.send(&[0; 4], None, soon()).unwrap();
        channel.receive(&mut [0; 4], soon()).unwrap();
        take(&channel).unwrap();
        reply(&channel, Status::GOOD, &[]);
        assert_eq!(waiting.join().unwrap().unwrap().0.status, Status::GOOD);
    });
}

#[test]
fn waiting_for_a_broker_ends_when_nobody_wants_it() {
    let broker =
        Broker::new("/nonexistent/socket".as_ref()).with_reconnect(Duration::from_secs(3600));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| receive(&broker, &read_keys(8), 8));
        thread::sleep(Duration::from_millis(50));
        broker.close();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    });
}

#[test]
fn commands_do_not_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let broker = Broker::new(&folder.path().join("socket"));
    let accept = || {
        let channel = Channel::new(listener.accept().unwrap().0).unwrap();
        channel.send(&[0; 4], None, soon()).unwrap();
        channel.receive(&mut [0; 4], soon()).unwrap();
        take(&channel).unwrap();
        channel
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| receive(&broker, &read_keys(8), 8));
        let stuck = accept();
        let second = scope.spawn(|| receive(&broker, &read_keys(8), 8));
        reply(&accept(), Status::GOOD, b"2");
        assert_eq!(second.join().unwrap().unwrap().1[0], b'2');
        reply(&stuck, Status::GOOD, b"1");
        assert_eq!(first.join().unwrap().unwrap().1[0], b'1');
    });
}

#[test]
fn a_broker_that_is_not_there_is_not_asked_for_long_what_it_can_do() {
    let broker =
        Broker::new("/nonexistent/socket".as_ref()).with_reconnect(Duration::from_secs(3600));
    for opcode in 0..=0xff {
        let can = broker.can(device().as_fd(), &[opcode, 0]);
        assert_eq!(can, matches!(opcode, 0x5e | 0x5f), "{opcode:x}");
    }
}
