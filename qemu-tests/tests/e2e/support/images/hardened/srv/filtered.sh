b=/usr/bin/busybox
echo x >/tmp/everybodys
try() { if eval "$2" >/dev/null 2>&1; then echo "$1 works"; else echo "$1 refused"; fi; }
$b grep -E '^(Seccomp|CapEff):' /proc/self/status
try "mount" "$b mount -t tmpfs none /mnt"
try "unshare" "$b unshare -m true"
try "hostname" "$b hostname stolen"
try "swapoff" "$b swapoff -a"
try "date" "$b date -s '2001-01-01 00:00:00'; [ \$($b date +%Y) = 2001 ]"
try "threads and children" "$b true"
echo "that is all"
exec $b sleep 100000
