# shellcheck shell=sh
# pack.sh PORT END PATH: sends PATH as an archive through PORT, and then END. Prints whether it is a
# directory, whose content is then in the archive, or a file.
end=$2 path=$3
[ ! -L "$path" ] || fail "$path is a link in its guest: name its target instead"
if [ -d "$path" ]; then
    kind=directory from=$path what=.
elif [ -f "$path" ]; then
    kind=file from=$(dirname -- "$path") what=$(basename -- "$path")
elif [ -e "$path" ]; then
    fail "$path is neither a file nor a directory in its guest"
else
    fail "there is no $path in its guest"
fi
open_port "$1"
said=$({
    tar --create --format=gnu --sparse --hard-dereference --one-file-system -C "$from" -- "./$what" 2>&1 >&3
    echo "$?"
    printf %s "$end" >&3
} | tail -n 2) # what tar said last, and its status
newline='
'
# 1 means that a file changed while it was read.
case ${said##*"$newline"} in
    0 | 1) echo "$kind" ;;
    *) fail "tar failed in its guest: ${said%%"$newline"*}" ;;
esac
