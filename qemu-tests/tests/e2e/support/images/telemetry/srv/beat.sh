n=0
while true; do
    echo "beat $n"
    n=$((n + 1))
    busybox sleep 1
done
