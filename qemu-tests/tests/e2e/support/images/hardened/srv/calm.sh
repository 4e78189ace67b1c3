count=0
while :; do
    count=$((count + 1))
    echo "line $count"
    /usr/bin/busybox sleep 1
done
