# shellcheck shell=sh
# pack.sh DIRECTORY PATH MOST: packs PATH into DIRECTORY/archive, if that is smaller than MOST bytes.
# Prints whether it is a directory, whose content is then in the archive, or a file.
fail() { echo "$*" >&2; exit 1; }
directory=$1 path=$2 most=$3
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
status=$({
    {
        tar --create --format=gnu --sparse --hard-dereference --one-file-system -C "$from" -- "./$what" \
            2>"$directory/said"
        echo "$?" >&3
    } | head -c "$most" >"$directory/archive" || echo 9 >&3
} 3>&1)
[ "$(stat -c %s -- "$directory/archive")" -lt "$most" ] || exit 3
# 1 means that a file changed while it was read.
case $status in
    0 | 1) echo "$kind" ;;
    *) fail "tar failed in its guest: $(tail -n 1 -- "$directory/said")" ;;
esac
