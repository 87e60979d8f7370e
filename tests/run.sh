#!/usr/bin/env bash
# Prepares this host and runs the tests, and tells where the time went.
#
#     tests/run.sh [NAME]...        `make test`: what fits into twenty minutes, or the tests with
#                                   one of these in their names
#     tests/run.sh --all [NAME]...  `make test-all`: the same with more rounds and more labs
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# By their targets: installing a desktop takes half an hour under software emulation, building five
# labs an hour.
readonly OTHER_TARGETS=(booted::desktop booted::shipped_labs)
# Each takes minutes, and shows one thing more than a test that always runs.
readonly ONLY_IN_ALL=(disks_survive_a_rebuild_a_full_disk_and_a_clean_stop_from_a_pause
    a_guest_whose_disk_cannot_grow_is_held_and_goes_on
    a_host_is_upgraded_to_the_next_release
    cluster::hosts_are cluster::doctor cluster::files a_student_has_as_many_instances
    a_class_goes_through_a_bad_day
    a_host_that_was_said_to_be_off
    a_class_is_forked_for_its_lesson_and_paused_after_it reaper_week::
    a_rebuild_under_a_fork_is_no_matter_to_it)
# Most tests wait for QEMU or libvirt most of the time.
readonly AT_ONCE=8
# More failures than these are not for want of a processor.
readonly FEW=3

stages=() # a line each: seconds, name
log=$(mktemp)
again=$(mktemp)
trap 'rm -f -- "$log" "$again"' EXIT

main() {
    local name only skipped=("${OTHER_TARGETS[@]}")
    case ${1-} in
        --all)
            export CYYBER_TEST_THOROUGH=1
            shift
            ;;
        '') skipped+=("${ONLY_IN_ALL[@]}") ;;
        -*)
            sed -n '2,/^set/ { s/^# \{0,1\}//p }' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
    only=("$@")
    for name in "${skipped[@]}"; do only+=(--skip "$name"); done
    stage setup templates/host/setup.sh --with-tests --need-packer
    stage image as_root templates/cloud-image/make-image.sh ${MIRROR:+--mirror "$MIRROR"}
    stage 'quick guest' tests/quick-guest.sh
    cargo=$(templates/host/find-cargo.sh) || exit
    export PATH="${cargo%/*}:$PATH"
    stage format cargo fmt --check
    stage lint cargo clippy --locked --all-targets -- -D warnings
    stage compile cargo test --quiet --locked --no-run
    stage 'unit tests' cargo test --quiet --locked --lib --bins
    stage 'tests of the program' tests "${only[@]}"
    tell
}

# Runs one stage; a failure ends it all.
stage() {
    local name=$1 began=$SECONDS status=0
    shift
    "$@" || status=$?
    stages+=("$(printf '%5d s  %s' $((SECONDS - began)) "$name")")
    ((status == 0)) && return
    echo "error: failed: $name" >&2
    tell
    exit 1
}

as_root() { if ((EUID == 0)); then "$@"; else sudo -- "$@"; fi; }

# Beside seven others on two emulated processors, a guest may be too slow for any patience. The few
# tests that fail are run once more, alone; what they said beside the others is told all the same.
tests() {
    local failed
    suite "$AT_ONCE" "$@" 2>&1 | tee -- "$log" && return
    mapfile -t failed < <(sed -nE 's/^test (.*) \.\.\. FAILED.*/\1/p' "$log" | sort -u)
    ((${#failed[@]} > 0 && ${#failed[@]} <= FEW)) || return 1
    printf '\nOnce more, alone:\n'
    suite 1 --exact "${failed[@]}" 2>&1 | tee -- "$again"
}

# The real host is not touched by them: see world.sh. libtest tells the time of a test only to who
# asks for what is not stable yet; this asks it alone, so that nothing is compiled anew.
suite() {
    local at_once=$1
    shift
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='env RUSTC_BOOTSTRAP=1 tests/world.sh' \
        cargo test --locked --test suite -- -Z unstable-options --report-time --format pretty \
        --include-ignored --test-threads "$at_once" "$@"
}

# The slowest tests, the stages, and last of all what failing tests said, and whether they passed alone.
tell() {
    local slowest
    slowest=$(sed -nE 's/^test (.*) \.\.\. .*<([0-9.]+)s>$/\2 s  \1/p' "$log" | sort -rn | head -n 10)
    [[ -z $slowest ]] || printf '\nThe slowest tests:\n%s\n' "$slowest"
    printf '\nThe stages:\n'
    printf '%s\n' "${stages[@]}" "$(printf '%5d s  in all' "$SECONDS")"
    sed -n '/^failures:$/,$p' "$log"
    [[ -s $again ]] || return 0
    printf '\nThe same tests, alone:\n'
    grep -E '^test .* \.\.\. ' "$again"
    sed -n '/^failures:$/,$p' "$again"
}

main "$@"
