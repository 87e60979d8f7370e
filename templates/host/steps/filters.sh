# shellcheck shell=bash disable=SC2154 # shares variables with setup.sh
# Step of setup.sh: the filters on the network cards of instances, from filter-*.xml.
#
# libvirt puts a changed filter in force at once, also for instances that run.

provide_filters() {
    if [[ $check_only = yes ]] && ! libvirt_answers; then
        change 'set up the filters cyyber-host, cyyber-isolated and cyyber-nat, as far as needed' || return 0
    fi
    # Those that others refer to come first.
    filter_of cyyber-host | grep . >/dev/null || provide_filter cyyber-host "$HERE/filter-host.xml"
    provide_filter cyyber-isolated "$HERE/filter-isolated.xml"
    provide_filter cyyber-nat "$HERE/filter-nat.xml"
}

provide_filter() {
    local name=$1 file=$2 answer uuid wanted
    wanted=$(rules <"$file")
    [[ $(filter_of "$name" | rules) != "$wanted" ]] || return 0
    change "filter $name: define" || return 0
    # A definition under a known name must carry the UUID of that name.
    uuid=$(filter_of "$name" | grep '<uuid>' || true)
    answer=$(on_libvirt nwfilter-define <(printf '%s\n' "${wanted/$'\n'/$'\n'$uuid$'\n'}") 2>&1) ||
        die "cannot set up the filter $name: ${answer//$'\n'/ }"
}

filter_of() {
    on_libvirt nwfilter-dumpxml "$1" 2>/dev/null || true
}

# A filter's text without comments, empty lines and its UUID.
rules() {
    sed -e '/<!--/,/-->/d' -e '/<uuid>/d' -e '/^[[:space:]]*$/d'
}
