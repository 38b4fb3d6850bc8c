//! Commands to a SCSI device of the host, through a lane: what reaches the device, and what comes
//! back.

mod common;

use std::sync::Arc;

use common::lane::Queue;
use storage::host::ScsiHost;
use storage::lun::passthrough::Passthrough;
use storage::lun::spec::PassthroughSpec;
use storage::task::Response;
use storage::testing::FakeHost;

const INQUIRY: &[u8] = &[0x12, 0, 0, 0, 36, 0];

fn spec() -> PassthroughSpec {
    PassthroughSpec::new("/dev/sg0".as_ref())
}

/// A queue in front of `host`, whose power-on has been told of.
fn queue(host: &Arc<FakeHost>, spec: &PassthroughSpec) -> Queue {
    let lun = Passthrough::new(spec, Arc::clone(host) as Arc<dyn ScsiHost>).unwrap();
    host.take_sent();
    Queue::before(Arc::new(lun))
}

#[test]
fn what_is_written_is_read() {
    let host = Arc::new(FakeHost::default());
    let mut queue = queue(&host, &spec());
    let data: Vec<u8> = (0..=255).cycle().take(8 * 512).collect();
    let write = common::transfer_16(0x8a, false, 5, 8);
    assert_eq!(queue.run(&write, &data, 0), (Response::good(0), vec![]));
    let read = common::transfer_16(0x88, false, 5, 8);
    assert_eq!(queue.run(&read, &[], 8 * 512), (Response::good(0), data));
    let (response, data) = queue.run(INQUIRY, &[], 36);
    assert_eq!((response, &data[8..11]), (Response::good(0), &b"VMM"[..]));
    let sent = host.take_cdbs();
    assert_eq!(sent, [write.to_vec(), read.to_vec(), INQUIRY.to_vec()]);
}
