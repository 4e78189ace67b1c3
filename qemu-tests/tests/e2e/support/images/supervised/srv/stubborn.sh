trap '' TERM
echo "deaf"
while :; do sleep 1; done
