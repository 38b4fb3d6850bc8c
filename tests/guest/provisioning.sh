# shellcheck shell=dash disable=SC2154 # thin, a disk full of AAh, is set by the test
# What sd makes of the disk; and its blocks are unmapped, or written with one block.
# See tests/boot.rs for what the host finds afterwards: it counts in MiB, so here
# 2048 blocks.

reads_zero() { # MIB COUNT
  dd if="$thin" bs=1M skip="$1" count="$2" iflag=direct 2>/dev/null | cmp -n $(($2 << 20)) - /dev/zero
}

section limits sh -c "cd /sys/block/${thin#/dev/}/queue && grep . discard_max_hw_bytes write_zeroes_max_bytes fua write_cache"
section cache-off sh -c "echo 'write through' >/sys/class/scsi_disk/0:0:2:0/cache_type; cat /sys/block/${thin#/dev/}/queue/write_cache"
section cache-on sh -c "echo 'write back' >/sys/class/scsi_disk/0:0:2:0/cache_type; cat /sys/block/${thin#/dev/}/queue/write_cache"
section stopped sg_start --stop "$thin"
section not-ready sg_turs "$thin"
section started sg_start --start "$thin"

dd if=/dev/urandom of=/tmp/block bs=512 count=1 2>/dev/null

section unmap sg_unmap --force --lba=$((1 * 2048)) --num=$((2 * 2048)) "$thin"
section unmap-zero reads_zero 1 2
section same-10 sg_write_same --10 --lba=$((4 * 2048)) --num=2048 --in=/tmp/block --xferlen=512 "$thin"
section same-16 sg_write_same --16 --lba=$((5 * 2048)) --num=2048 --in=/tmp/block --xferlen=512 "$thin"
section same-unmap sg_write_same --16 --unmap --lba=$((6 * 2048)) --num=2048 --in=/dev/zero --xferlen=512 "$thin"
section same-unmap-zero reads_zero 6 1
section block sha256sum /tmp/block
section same sh -c "dd if=$thin bs=512 skip=$((5 * 2048 + 7)) count=1 iflag=direct 2>/dev/null | sha256sum"
section discard blkdiscard -o $((8 << 20)) -l $((1 << 20)) "$thin"
section discard-zero reads_zero 8 1
section zeroout blkdiscard -z -o $((10 << 20)) -l $((1 << 20)) "$thin"
section zeroout-zero reads_zero 10 1
section unmap-beyond sg_unmap --force --lba=$((16 * 2048 - 1)) --num=2 "$thin"
