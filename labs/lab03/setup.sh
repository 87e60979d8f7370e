#!/bin/sh
# Leaves passwords of a little company to find, from easy to hard. Run as root in the guest while the lab
# is built.
set -eu

cd /home/student
while read -r name password; do
    printf '%s:%s\n' "$name" "$(openssl passwd -1 "$password")"
done >company <<LIST
mira sunflower
tom Dragon1
ada lab2749
eve qzkfx
LIST
echo 'flag{long-and-odd-beats-short-and-clever}' >flag
rm -f box.zip
zip -q -P lab2749 box.zip flag
rm flag
chown student: company box.zip
