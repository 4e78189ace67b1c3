echo "open"
/usr/bin/busybox timeout 5 /usr/bin/busybox yes
# Behind the flood's last line, and after the pause that a loss takes to be told.
/usr/bin/busybox sleep 3
echo
echo "the flood is over"
exec /usr/bin/busybox sleep 100000
