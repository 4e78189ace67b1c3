n=0
while [ $n -lt 300 ]; do
    echo "line $n"
    n=$((n + 1))
done
echo "<3>this is bad: \"quoted\", [bracket] ä" >&2
exec busybox sleep 100000
