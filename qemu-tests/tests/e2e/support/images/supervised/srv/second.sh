echo "count is $(cat /var/lib/count/count)"
/usr/bin/busybox setsid /usr/bin/busybox sleep 31415 &
/usr/bin/busybox sleep 0.2
