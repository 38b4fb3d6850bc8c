//! A SCSI device of the host over real rings: nothing that it says is lost on the way, and nothing
//! that it leaves undone holds the queue.

mod host;
mod ring;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use devices::virtio::{VirtioDevice, scsi};
use host::{BUFFERS, CONTROL, GOOD, Host, LONG, REQUEST, VERSION_1, data_at, outcome, response_at};
use ring::{command, readable, transfer_10, writable};
use storage::engine::Pool;
use storage::host::{Completion, HostStatus, ScsiHost};
use storage::lun::passthrough::Passthrough;
use storage::lun::passthrough::policy::Preset;
use storage::lun::spec::PassthroughSpec;
use storage::scsi::status::Status;
use storage::target::Bus;
use storage::testing::{FakeDevice, FakeHost, Outcome};

const SENSE_SIZE: u64 = 20;
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];

/// Two of the host's devices, each with a private nexus.
struct Scene {
    host: Host,
    devices: [Arc<FakeHost>; 2],
}

impl Scene {
    fn new(sense_size: u32, tmf_timeout: Duration) -> Scene {
        let bus = Bus::new(1).unwrap();
        let devices = [0, 1].map(|number| {
            let device = Arc::new(FakeHost::default());
            let mut spec = PassthroughSpec::new(Path::new("/dev/sg0"));
            spec.policy.preset = Preset::Cluster;
            let way = Arc::clone(&device) as Arc<dyn ScsiHost>;
            bus.attach(0, number, Arc::new(Passthrough::new(&spec, way.into()).unwrap())).unwrap();
            device
        });
        let mut host = Host::on(bus, Pool::new(1), tmf_timeout);
        host.controller.write_config(SENSE_SIZE, &sense_size.to_le_bytes());
        host.activate(VERSION_1);
        Scene { host, devices }
    }

    /// Takes the attentions of the power-on away.
    fn ready(mut self) -> Scene {
        for lun in [0, 1] {
            self.host.take_attention(lun);
        }
        self
    }

    /// Sends a command and leaves it.
    fn start(&mut self, place: u16, lun: u8, cdb: &[u8], room: u32) {
        let segments = self.host.place(place, &command(lun, cdb), &[], room);
        self.host.request.push_indirect(place, &segments);
        self.host.kick(REQUEST);
    }
}

#[test]
fn sense_data_arrives_as_long_as_the_driver_has_room() {
    for size in [252, 96, 20] {
        let Scene { mut host, devices } = Scene::new(size, LONG);
        let sense: Vec<u8> = [0x72, 4, 0x44, 0, 0, 0, 0, 244].into_iter().chain(0..244).collect();
        let room = 12 + size;
        let mut run = |cdb: &[u8]| {
            host.put(BUFFERS, &command(0, cdb));
            let segments = [readable(BUFFERS, 51), writable(response_at(0), room)];
            host.request.push(0, &segments);
            host.kick(REQUEST);
            let (_, len) = host.wait(REQUEST);
            (len, host.get(response_at(0), room as usize))
        };
        run(&[0; 6]);
        devices[0].on(
            0x00,
            Outcome::End(Completion {
                status: Status::CHECK_CONDITION,
                sense: sense.clone(),
                resid: 0,
                host_status: HostStatus::OK,
            }),
        );
        let (len, response) = run(&[0; 6]);
        assert_eq!(len, room);
        assert_eq!((response[10], &response[..4]), (2, size.to_le_bytes().as_slice()));
        assert_eq!(response[12..], sense[..size as usize]);
    }
}

#[test]
fn data_goes_both_ways_and_the_residual_comes_back() {
    let Scene { mut host, .. } = Scene::new(96, LONG).ready();
    let data: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let (len, response) = host.run(&command(1, &transfer_10(0x2a, 5, 8)), &data, 0);
    assert_eq!((outcome(&response), len), (GOOD, 12));
    let (_, response) = host.run(&command(1, &transfer_10(0x28, 5, 8)), &[], 4096 + 512);
    assert_eq!((outcome(&response), host.get(data_at(0), 4096)), ((0, 0, 512), data));
}

#[test]
fn a_stuck_command_holds_up_no_other_and_a_reset_ends_it() {
    let mut scene = Scene::new(96, LONG).ready();
    let (stuck, hold) = Outcome::stuck();
    scene.devices[0].on(0x12, stuck);
    scene.start(1, 0, &INQUIRY, 36);
    hold.wait_for_arrival();
    for (place, lun) in [(2, 1), (3, 0)] {
        scene.start(place, lun, &INQUIRY, 36);
        assert_eq!(scene.host.wait(REQUEST).0, place);
        assert_eq!(outcome(&scene.host.get(response_at(place), 12)), GOOD);
    }
    const LOGICAL_UNIT_RESET: u8 = 5;
    const RESET: u8 = 4;
    reset(&mut scene.host, LOGICAL_UNIT_RESET);
    assert_eq!(scene.host.wait(REQUEST).0, 1);
    assert_eq!(scene.host.get(response_at(1), 12)[11], RESET);
    assert_eq!(scene.devices[0].resets(), 1);
    assert_eq!(scene.host.take_attention(0), 3);
}

/// Has the first logical unit reset; waits for that.
fn reset(host: &mut Host, function: u8) {
    let at = BUFFERS + 0x20_0000;
    let mut request = [0; 24];
    request[4] = function;
    request[8..12].copy_from_slice(&[1, 0, 0x40, 0]);
    host.put(at, &request);
    host.control.push(0, &[readable(at, 24), writable(at + 0x100, 1)]);
    host.kick(CONTROL);
    host.wait(CONTROL);
    assert_eq!(host.get(at + 0x100, 1), [0], "complete");
}

/// SEG_MAX and MAX_SECTORS of a controller with `queue_size`, before LUNs of these limits in KiB
/// and segments.
fn limits(queue_size: u16, luns: &[(u64, u32)]) -> (u32, u32) {
    const SEG_MAX: u64 = 4;
    const MAX_SECTORS: u64 = 8;
    let bus = Bus::new(1).unwrap();
    for (number, (kib, segments)) in (0..).zip(luns) {
        let mut device = FakeDevice::default();
        device.limits.max_bytes = kib << 10;
        device.limits.max_segments = *segments;
        let way = Arc::new(FakeHost::new(device)) as Arc<dyn ScsiHost>;
        let spec = PassthroughSpec::new(Path::new("/dev/sg0"));
        bus.attach(0, number, Arc::new(Passthrough::new(&spec, way.into()).unwrap())).unwrap();
    }
    let spec = scsi::ControllerSpec {
        id: "limits".into(),
        request_queues: 1,
        queue_size,
        tmf_timeout: LONG,
    };
    let controller = scsi::Controller::new(spec, bus, Pool::new(1));
    let field = |offset| {
        let mut bytes = [0; 4];
        controller.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    (field(SEG_MAX), field(MAX_SECTORS))
}

/// Shortfall 3: nothing of QEMU's controller goes by the limits of its LUNs.
#[test]
fn the_controller_has_the_least_of_its_luns_limits() {
    assert_eq!(limits(256, &[]), (254, 0xffff));
    assert_eq!(limits(256, &[(256, 128)]), (128, 512));
    assert_eq!(limits(256, &[(512, 128), (64, 1024), (1024, 65)]), (65, 128));
    assert_eq!(limits(64, &[(256, 128)]), (62, 512));
    assert_eq!(limits(256, &[(256, 0)]), (1, 8), "told as none");
}
