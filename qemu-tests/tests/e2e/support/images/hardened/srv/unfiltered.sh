b=/usr/bin/busybox
try() { if eval "$2" >/dev/null 2>&1; then echo "$1 works"; else echo "$1 refused"; fi; }
$b grep -E '^(Seccomp|CapEff):' /proc/self/status
try "mount" "$b mount -t tmpfs none /mnt && $b umount /mnt"
echo "that is all"
exec $b sleep 100000
