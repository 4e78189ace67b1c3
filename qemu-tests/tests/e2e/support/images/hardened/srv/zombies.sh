b=/usr/bin/busybox
# Each parent leaves a thousand children that have ended, all at once, to PID 1.
parent=0
while [ $parent -lt $THOUSANDS ]; do
    parent=$((parent + 1))
    (
        count=0
        while [ $count -lt 1000 ]; do
            : &
            count=$((count + 1))
        done
        $b sleep 0.2
        exec $b true
    )
done
# Init's own: what others do not wait for is theirs. One that ended just now may be there
# while it is looked for; none stays.
tries=0
while [ $tries -lt 20 ]; do
    tries=$((tries + 1))
    $b sleep 1
    left=$($b cat /proc/[0-9]*/status 2>/dev/null |
        $b awk '/^Name:/ { z = 0 } /^State:.Z/ { z = 1 } /^PPid:.1$/ { n += z } END { print n + 0 }')
    [ $left -gt 0 ] || break
done
echo "zombies left: $left"
echo "that is all"
exec $b sleep 100000
