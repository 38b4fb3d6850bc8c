# shellcheck shell=dash
# What a guest sees of its configuration: see tests/boot.rs for the disks.

# Linux numbers a logical unit by its two address bytes: 300 is 412Ch, flat space
# addressing.
system=$(disk 0:0:0:0) locked=$(disk 0:0:0:3) far=$(disk 0:0:7:16684)

section nproc nproc
section clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
section transport readlink -f /sys/class/scsi_host/host0
section lsscsi lsscsi -s
section queues ls "/sys/block/${system#/dev/}/mq"
section inquiry sg_inq "$system"
for page in 0x00 0x80 0x83 0xb0 0xb1 0xb2; do section vpd-$page sg_vpd -p $page "$system"; done
section rotation sg_vpd -p 0xb1 "$locked"
section luns-0 sg_luns "$system"
section luns-7 sg_luns "$far"
section capacity sg_readcap -l "$system"
section ready sg_turs "$system"
section sense sg_requests "$system"
section modes sg_modes -6 "$system"
section opcodes sg_opcodes "$system"
section unsupported sg_raw "$system" 5e 00 00 00 00 00 00 00 08 00
section beyond sg_raw -r 512 "$system" 28 00 00 02 00 00 00 00 01 00
section read-only blockdev --getro "$locked"
section protected sg_raw -s 512 -i /dev/zero "$(generic 0:0:0:3)" 2a 00 00 00 00 00 00 00 01 00
