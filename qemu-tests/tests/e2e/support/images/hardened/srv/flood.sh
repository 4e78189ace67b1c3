echo "open"
/usr/bin/busybox timeout 5 /usr/bin/busybox yes
# Again and again: the line itself may be lost where the reader is slow, and is counted then.
while /usr/bin/busybox sleep 3; do
    echo
    echo "the flood is over"
done
