# Says which drivers there are, and what the first sector of a disk on USB says while there is one.
drivers() {
    names=$(busybox grep -oE '^(igb|usb_storage|sd_mod) ' /proc/modules | busybox sort)
    echo "drivers:" $names
}
drivers
echo looking
had=
while :; do
    for disk in /sys/block/sd*; do
        is=${disk##*/}
    done
    [ -e "$disk" ] || is=
    if [ "$is" != "$had" ]; then
        if [ -n "$is" ]; then
            echo "disk: $(busybox dd if=/dev/"$is" bs=16 count=1 2>&1 | busybox head -n 1)"
        else
            echo "disk: gone"
        fi
        drivers
        had=$is
    fi
    busybox sleep 0.2
done
