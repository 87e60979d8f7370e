#!/bin/sh
# Has the network of lab01 start with the machine. Run as root in the guest while the lab is built.
set -eu

systemctl enable lab01-lan lab01-host@web lab01-host@mail lab01-host@office lab01-host@vault
