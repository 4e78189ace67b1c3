b=/usr/bin/busybox
read -r reason count </run/slipform/last-boot
echo "last boot: $reason, $count in a row"
case $reason in
unknown)
    # Nobody listens on port 9: its health fails, and the policy is to reboot.
    echo "looked"
    ;;
health)
    $b httpd -p 127.0.0.1:9 -h /srv
    echo "looked"
    $b sleep 1
    echo c >/proc/sysrq-trigger
    ;;
panic)
    $b httpd -p 127.0.0.1:9 -h /srv
    echo "looked"
    $b sleep 1
    # Init hangs: frozen in a cgroup.
    $b mkdir /sys/fs/cgroup/frozen
    echo 1 >/sys/fs/cgroup/frozen/cgroup.procs
    echo 1 >/sys/fs/cgroup/frozen/cgroup.freeze
    ;;
*)
    $b httpd -p 127.0.0.1:9 -h /srv
    echo "looked"
    ;;
esac
exec $b sleep 100000
