echo "open"
/usr/bin/busybox timeout 5 /usr/bin/busybox yes "a line of the flood"
echo "the flood is over"
exec /usr/bin/busybox sleep 100000
