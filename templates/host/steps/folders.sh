# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: the folders of cyyber, and who may use them.
#
# Members of the group libvirt may read and write; others may not read. QEMU runs as other users,
# which need search permission to reach their images.

readonly CACHE_DIR=/var/cache/cyyber

make_folders() {
    local folder
    refuse_foreign "$storage_dir" base-images
    refuse_foreign "$state_dir" activity
    make_folder /etc/cyyber root 755
    for folder in "$storage_dir" "$storage_dir/base-images" "$storage_dir/user-instances" "$CACHE_DIR"; do
        make_folder "$folder" libvirt 2771
    done
    for folder in "$state_dir" "$state_dir/activity"; do
        make_folder "$folder" libvirt 2770
    done
    let_qemu_pass
}

# A folder that others use, such as /tmp or /home, must not get our group and mode.
refuse_foreign() {
    local folder=$1 mark=$2
    [[ -d $folder && ! -e $folder/$mark && $folder != "$STORAGE_DIR" && $folder != "$STATE_DIR" ]] || return 0
    if [[ -k $folder || -n $(find "$folder/" -mindepth 1 -maxdepth 1 ! -name lost+found -print -quit) ]]; then
        die "cannot use $folder: it is used for something else" 'choose an empty folder, for example a new one in it'
    fi
}

make_folder() {
    local folder=$1 group=$2 mode=$3
    # The group can write to our folders: a link created there could redirect root.
    if [[ -L $folder && $(stat -Lc %G "${folder%/*}/") = libvirt ]]; then
        die "cannot use $folder: it is a symbolic link" 'use a real folder instead'
    fi
    if [[ ! -e $folder ]]; then
        change "create $folder" || return 0
        mkdir -p -- "$folder" || die "cannot create $folder" "check ${folder%/*}"
    elif [[ ! -d $folder ]]; then
        die "cannot create $folder: a file has that name" 'move it away'
    elif [[ $(stat -Lc '%U %G %a' "$folder") = "root $group $mode" ]]; then
        return 0
    else
        change "give $folder to root:$group with mode $mode" || return 0
    fi
    if ! { chown "root:$group" "$folder" && chmod "$mode" "$folder"; }; then
        die "cannot set owner and mode of $folder" 'use a file system that supports them'
    fi
}

let_qemu_pass() {
    local images=$storage_dir/base-images
    [[ -d $images ]] || return 0
    # As the QEMU of an instance, which only has the permissions of others.
    setpriv --reuid=2100000016 --regid=2100000016 --clear-groups test -x "$images" ||
        leave_to_person "let QEMU reach $images: run 'sudo chmod o+x' on the folders above it (see 'namei -l $images')"
}

# libvirt's group manages instances; 'cyyber build' runs QEMU as the caller, who can use /dev/kvm
# through the group kvm.
admit_caller() {
    local person group groups=()
    person=$(sudo_caller) || return 0
    for group in libvirt kvm; do
        [[ " $(id -nG "$person") " = *" $group "* ]] || groups+=("$group")
    done
    ((${#groups[@]})) || return 0
    change "add $person to the groups: ${groups[*]}" || return 0
    for group in "${groups[@]}"; do
        usermod -aG "$group" "$person" || die "cannot add $person to the group $group" \
            'add them in the directory service that has this account'
    done
    leave_to_person "log out and in again: only then $person is in the groups ${groups[*]}"
}
