#!/usr/bin/env bash
# Puts a student's files from an old Docker container into their VM, which must be running:
#
#   docker export CONTAINER | labs/from-docker.sh LAB USER FROM TO [OPTION]...
#
# FROM is a directory in the container, TO one in the VM, whose owner gets the files; options are those
# of `cyyber instance push`.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
lab=$1 user=$2 from=${3#/} to=$4
from=${from%/}

work=$(mktemp -d)
trap 'chmod -R u+rwX -- "$work"; rm -rf -- "$work"' EXIT
# Owners in the container mean nothing here. Names in the archive may or may not begin with "./".
said=$(tar --extract --directory="$work" --no-same-owner --no-same-permissions "$from" "./$from" 2>&1 ||
    true)
grep -v -e 'Not found in archive' -e 'Exiting with failure status' <<<"$said" >&2 || true
[[ -d $work/$from ]] || { echo "error: there is no directory /$from in the archive" >&2; exit 1; }
find "$work" ! -type f ! -type d ! -type l -printf 'left out %P: neither a file nor a directory nor a link\n' \
    -delete >&2
shopt -s dotglob nullglob
files=("$work/$from"/*)
[[ ${#files[@]} -gt 0 ]] || { echo "error: /$from is empty in the archive" >&2; exit 1; }
cyyber instance push "$lab" "$user" "${files[@]}" "$to" "${@:5}"
