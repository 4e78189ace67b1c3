# fill NAME FILE KIB: says whether all of it was written, or why not.
fill() {
    why=$(busybox dd if=/dev/zero of="$2" bs=64k count=$(($3 / 64)) 2>&1) && echo "$1: written" && return
    case $why in
    *"quota exceeded"*) echo "$1: quota" ;;
    *) echo "$1: $why" ;;
    esac
}
app=/var/lib/app other=/var/lib/other
fill "app, before" $app/more 64
busybox rm -f $app/more $app/fill
fill app $app/fill 8192
fill other $other/fill 8192
busybox sync
for path in $app $other; do
    set -- $(busybox stat -f -c "%b %f %S" $path)
    echo "$path: $(($1 * $3 / 1024)) KiB, $((($1 - $2) * $3 / 1024)) used"
done
echo done
