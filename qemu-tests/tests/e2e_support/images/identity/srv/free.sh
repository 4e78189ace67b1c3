echo "free: $(ls /run/credentials/who/ 2>&1)"
# QEMU's router advertises a name server beside that of the lease; it comes when it comes.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    busybox grep -q fec0 /etc/resolv.conf && break
    busybox sleep 1
done
echo "names: $(busybox grep nameserver /etc/resolv.conf | busybox tr '\n' ' ')"
exec busybox sleep 100000
