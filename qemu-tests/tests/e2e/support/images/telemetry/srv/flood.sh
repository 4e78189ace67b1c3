echo waits
busybox nc -l -p 7000 < /dev/null
busybox timeout 5 busybox yes "a line of a flood that nobody can ship as fast as it is written"
# A service that wrote too fast is heard again after a moment.
busybox sleep 5
echo "the flood is over"
exec busybox sleep 100000
