#!/bin/sh
# Makes the riddles of lab05. Run as root in the guest while the lab is built.
set -eu

for riddle in crackme vault; do
    gcc -O1 -s -o "/home/student/$riddle" "/usr/local/src/$riddle.c"
    chown student: "/home/student/$riddle"
    rm "/usr/local/src/$riddle.c"
done
