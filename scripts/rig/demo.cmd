#!/bin/sh
# What the demo's guest does by itself (its /cmd): scripts/rig/demo judges it by
# the lines printed here and by the first disk's contents.
set -eu

run() {
  echo "# $*"
  "$@"
}

block_device() { echo "/dev/$(ls "/sys/bus/scsi/devices/$1/block")"; } # H:C:T:L
disk=$(block_device 0:0:0:0)
data=$(block_device 0:0:0:1)

run lsscsi
run sg_inq "$disk"
run sg_inq "$data"
run dd if="$data" bs=512 count=1 iflag=direct status=none | tr -d '\0'
dd if=/dev/urandom of=/tmp/pattern bs=1M count=4 status=none
run dd if=/tmp/pattern of="$disk" bs=1M seek=8 oflag=direct conv=fsync
echo "wrote sha256 $(sha256sum </tmp/pattern | cut -d' ' -f1)"
