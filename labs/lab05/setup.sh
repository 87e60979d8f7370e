#!/bin/sh
# Makes the riddle of lab05. Run as root in the guest while the lab is built.
set -eu

gcc -O1 -s -o /home/student/crackme /usr/local/src/crackme.c
chown student: /home/student/crackme
rm /usr/local/src/crackme.c
