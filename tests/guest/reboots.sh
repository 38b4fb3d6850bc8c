# shellcheck shell=dash disable=SC2154 # wanted, the number of boots, is set by the test
# Boots again and again, each time out of the middle of I/O and by another way.
# What boot this is stands on the second disk.

disk=$(disk 0:0:0:0) counter=$(disk 0:0:0:1)
boots=$(dd if="$counter" bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\0')
boots=$((boots + 1))
printf '%-511s\n' $boots | dd of="$counter" bs=512 oflag=direct 2>/dev/null
echo # the boot before may have ended within a line
echo "boot $boots"
if [ $boots = "$wanted" ]; then exit; fi

fio --name=load --filename="$disk" --thread --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw \
  --bsrange=4k-256k --time_based --runtime=600 --output=/tmp/fio --eta=never 2>/dev/null &
until { read -r _ _ _ _ _ _ written _ <"/sys/block/${disk#/dev/}/stat"; } && [ "$written" -gt 4096 ]; do
  sleep 0.1
done

case $((boots % 4)) in
  0) echo kbd >/sys/kernel/reboot/type ;;
  1) echo acpi >/sys/kernel/reboot/type ;;
  2) echo pci >/sys/kernel/reboot/type ;;
esac
case $((boots % 2)) in
  0) echo b >/proc/sysrq-trigger ;;
  1) reboot -f ;;
esac
sleep 100
