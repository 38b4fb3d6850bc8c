//! Events of the host's devices, as the kernel tells them.
