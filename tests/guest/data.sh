# shellcheck shell=dash disable=SC2154 # written, read and ext4 are set by the test
# What is written on one side is read on the other, and a file system lives.

dd if=/dev/urandom of=/tmp/pattern bs=1M count=8 2>/dev/null
section direct dd if=/tmp/pattern of="$written" bs=64k seek=48 oflag=direct conv=fsync
section pattern sha256sum /tmp/pattern
section read sh -c "dd if=$read bs=1M skip=5 count=8 iflag=direct 2>/dev/null | sha256sum"
section mkfs mkfs.ext4 -q "$ext4"
mkdir -p /mnt
section mount mount -t ext4 "$ext4" /mnt
section copy cp /tmp/pattern /mnt/pattern
section umount umount /mnt
section fsck fsck.ext4 -f -n "$ext4"
section remount mount -t ext4 "$ext4" /mnt
section again sha256sum /mnt/pattern
