echo "hungry"
/usr/bin/busybox sleep 1
[ -e /var/lib/app/ate ] && exec /usr/bin/busybox sleep 100000
echo >/var/lib/app/ate
# tail keeps a line whole, and this one has no end.
/usr/bin/busybox tail -c 100000000 /dev/zero
