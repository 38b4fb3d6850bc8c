//! A guest that has nothing but registers: its machine, a platform that records, a virtio device
//! that does what the test says, and a virtio driver over PCI.

pub(crate) mod device;
pub(crate) mod driver;
pub(crate) mod machine;
