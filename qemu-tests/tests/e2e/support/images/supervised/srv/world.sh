b=/usr/bin/busybox
look() { [ -e "$1" ] && echo "there $1" || echo "gone $1"; }
echo "hostname $(cat /proc/sys/kernel/hostname) $(cat /etc/hostname)"
echo "machine-id $(cat /etc/machine-id)"
echo "swappiness $(cat /proc/sys/vm/swappiness)"
look /usr/share/zoneinfo/Asia/Tokyo
look /usr/share/zoneinfo/Europe/Berlin
look /srv/excluded.txt
look /lost+found
echo "/bin -> $($b readlink /bin), $(/bin/busybox echo works)"
$b dd if=/dev/zero of=/var/lib/small/fill bs=64k count=100 2>&1
echo "small has $($b df -k /var/lib/small | $b awk 'END { print $2 }') KiB"
$b touch /usr/written 2>&1
$b mount -o remount,rw / 2>/dev/null && echo "remount allowed" || echo "remount refused"
$b grep NoNewPrivs /proc/self/status
$b grep '^app:' /etc/passwd
$b cat /proc/[0-9]*/cmdline | $b grep -q 3141[5] && echo "left behind" || echo "nothing left behind"
# The lease comes beside the services.
until [ -s /etc/resolv.conf ]; do $b sleep 0.1; done
cat /etc/resolv.conf
echo "that is all"
exec $b sleep 100000
