//! A made-up sysfs.
