count=$(cat /var/lib/count/count 2>/dev/null || echo 0)
count=$((count + 1))
echo $count >/var/lib/count/count
[ $count -lt 3 ] && echo "attempt $count fails" && exit 7
echo "attempt $count works"
exec /usr/bin/busybox sleep 100000
