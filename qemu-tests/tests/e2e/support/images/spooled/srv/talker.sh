n=0
while [ $n -lt 100 ]; do
    echo "line $n"
    n=$((n + 1))
done
exec busybox sleep 100000
