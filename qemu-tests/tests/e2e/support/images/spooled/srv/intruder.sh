cd /var/lib/app
busybox rm -f null
busybox mknod /dev/intruder c 1 3 && echo there >/dev/intruder && echo "elsewhere: opened"
busybox mknod null c 1 3 && echo "device: made"
(echo here >null) 2>/dev/null && echo "device: opened" || echo "device: refused"
busybox grep " /var/lib/app " /proc/self/mounts
