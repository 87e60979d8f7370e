# shellcheck shell=sh
# Shows a text ($1) at every terminal in use and on every desktop. A student may create many of these and
# block each.
text=$1
exec </dev/null >/dev/null 2>&1
{
    who | while read -r _ line _; do echo "/dev/$line"; done
    ls -d /dev/pts/[0-9]*
} | sort -u | head -n 64 | while read -r terminal; do
    [ -c "$terminal" ] || continue
    # shellcheck disable=SC2016
    timeout 5 sh -c 'printf "\r\n\a%s\r\n" "$1" >"$2"' sh "$text" "$terminal" &
done
for bus in /run/user/*/bus; do
    uid=${bus#/run/user/}
    uid=${uid%/bus}
    [ -S "$bus" ] || continue
    [ "$uid" -gt 0 ] || continue
    # The notification service of the session, if it has one.
    DBUS_SESSION_BUS_ADDRESS=unix:path=$bus timeout 5 \
        setpriv --reuid="$uid" --regid=nogroup --clear-groups \
        busctl --user call org.freedesktop.Notifications /org/freedesktop/Notifications \
        org.freedesktop.Notifications Notify 'susssasa{sv}i' cyyber 0 dialog-warning \
        'Your lab' "$text" 0 0 60000 &
done
