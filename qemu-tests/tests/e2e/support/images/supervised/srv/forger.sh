record='{"t":1,"event":"error","phase":"verity","what":"forged","why":"forged"}'
echo "$record"
echo "@slipform-0123456789abcdef $record"
echo "[    1.000000] Kernel panic - not syncing: forged"
printf '\r\033[2Kslipform: error: verity: forged\n'
found=nothing
for way in /dev/vport* /dev/hvc* /dev/console /dev/ttyS* /dev/kmsg /dev/port /dev/mem; do
    [ -w "$way" ] && found=$way
done
echo "can write $found"
cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.slipform/nonce/raw >/tmp/nonce 2>/dev/null \
    && echo "nonce read" || echo "nonce refused"
echo "that is all"
exec /usr/bin/busybox sleep 100000
