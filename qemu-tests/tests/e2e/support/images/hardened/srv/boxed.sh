b=/usr/bin/busybox
try() { if eval "$2" 2>/dev/null; then echo "$1 works"; else echo "$1 refused"; fi; }
echo "hooks $($b tr '\n' ' ' </var/lib/app/hook)"
echo "FROM_FILE=$FROM_FILE OWN=$OWN"
try "its own folder" "echo x >/var/lib/app/x"
try "another folder" "echo x >/var/lib/other/x"
try "/run" "echo x >/run/x"
try "private /tmp" "echo x >/tmp/boxed"
try "/dev/null" "echo x >/dev/null"
$b ls /tmp | $b grep -q everybodys && echo "sees everybody's /tmp" || echo "sees its own /tmp only"
$b grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status
read -r line </proc/self/cgroup
group=/sys/fs/cgroup${line#0::}
echo "cgroup ${line#0::}"
for file in memory.max pids.max cpu.max memory.oom.group; do
    echo "$file $(cat $group/$file)"
done
$b grep -q 'rbps=52428800' $group/io.max && echo "io.max is set"
trap 'echo "asked by SIGUSR1"; exit 0' USR1
echo "that is all"
while :; do $b sleep 0.2; done
