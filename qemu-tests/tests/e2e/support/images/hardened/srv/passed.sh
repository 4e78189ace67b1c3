# Answers one connection on descriptor 3, and ends: init keeps the socket.
b=/usr/bin/busybox
[ "$LISTEN_PID" = $$ ] && echo "LISTEN_PID is its own"
echo "LISTEN_FDS=$LISTEN_FDS LISTEN_FDNAMES=$LISTEN_FDNAMES"
for fd in 3 4; do echo "descriptor $fd: $($b readlink /proc/$$/fd/$fd | $b cut -d: -f1)"; done
ls -l /run/passed/app.sock | $b awk '{ print "socket", $1, $3 }'
exec $b sleep 100000
