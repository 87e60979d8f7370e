# shellcheck shell=sh
# place.sh PORT SIZE TARGET OWNER REPLACE NAME...: unpacks an archive of SIZE bytes from PORT, which
# contains these names, into TARGET or under that name. Runs as the owner of the target directory: nobody
# else can change anything in it in the meantime.
port=$1 size=$2 target=$3 owner=$4 replace=$5
shift 5
if [ -d "$target" ]; then
    into=$target as=
elif [ "$#" = 1 ] && [ "${target%/}" = "$target" ]; then
    into=$(dirname -- "$target") as=$(basename -- "$target")
else
    into=$target
fi
[ -d "$into" ] || fail "there is no directory $into in its guest"
user=$(stat -L -c %u -- "$into") group=$(stat -L -c %g -- "$into")
to_user=$user to_group=$group
if [ -n "$owner" ]; then
    to_user=$(id -u -- "${owner%%:*}") && to_group=$(id -g -- "${owner%%:*}") || exit 1
    case $owner in *:*) to_group=$(getent group -- "${owner#*:}" | cut -d: -f3) ;; esac
    [ -n "$to_group" ] || fail "there is no group ${owner#*:} in its guest"
    [ "$user" = 0 ] || [ "$user:$group" = "$to_user:$to_group" ] || [ "$user" = "$to_user" ] ||
        fail "$into does not belong to ${owner%%:*}: its owner could change the files"
fi
# shellcheck disable=SC2016 # expanded by the other shell
place='
umask 022
into=$1 as=$2 replace=$3 owner=$4
shift 4
cd -- "$into" || exit 1
new=$(mktemp -d ./.cyyber-push.XXXXXXXX) || exit 1
trap "rm -rf -- \"$new\"" EXIT
tar --extract --no-same-owner --no-same-permissions -f - -C "$new" || exit 1
for name; do
    to=${as:-$name}
    [ -z "$owner" ] || chown -hR -- "$owner" "$new/$name" || exit 1
    if [ "$replace" != yes ] && { [ -e "$to" ] || [ -L "$to" ]; }; then
        echo "${into%/}/$to already exists in its guest" >&2
        exit 2
    fi
done
for name; do
    to=${as:-$name}
    if [ -e "$to" ] || [ -L "$to" ]; then
        mkdir -p -- "$new/.old" && mv -T -- "$to" "$new/.old/$name" || exit 1
    fi
    mv -T -- "$new/$name" "$to" || exit 1
done'
open_port "$port"
# The host sends as soon as it has got a byte.
printf . >&3
if [ "$user" = 0 ]; then
    head -c "$size" <&3 | sh -c "$place" sh "$into" "$as" "$replace" "$to_user:$to_group" "$@" 3>&-
else
    head -c "$size" <&3 |
        chroot --userspec="+$user:+$to_group" / sh -c "$place" sh "$into" "$as" "$replace" "" "$@" 3>&-
fi
