cd "$CREDENTIALS_DIRECTORY" || exit 1
echo "known: $NODE, $(cat db-password), $(busybox stat -c '%a %U' db-password), in a folder $(busybox stat -c %a .), $(busybox hostname)"
# User-data is root's, and nobody has run it.
cat /run/slipform/user-data 2>/dev/null && echo "user-data can be read by all"
exec busybox sleep 100000
