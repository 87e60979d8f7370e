#!/bin/sh
# The graphical desktop, with the student logged in to it on the VM's screen; read by stage.sh and
# never run by itself.
# shellcheck disable=SC2154 # $here is set in common.sh

install_desktop() {
    case $(cat "$here/desktop") in
        none) ;;
        xfce)
            provide_display_driver
            install_xfce
            ;;
        gnome)
            provide_display_driver
            install_gnome
            ;;
        *) fail "no such desktop: $(cat "$here/desktop")" ;;
    esac
}

# Kernels made for clouds have no driver for a screen. Where one is installed beside them the boot
# menu would still prefer theirs, so they go.
provide_display_driver() {
    has_display_driver && return
    stage "Installing a kernel with a display driver"
    if is_known linux-image-amd64; then
        apt install --no-install-recommends -- linux-image-amd64
        # The running kernel is among them; this is where dpkg asks whether that is meant.
        echo 'linux-base linux-base/removing-running-kernel boolean false' | debconf-set-selections
        # shellcheck disable=SC2016,SC2046 # dpkg's own placeholders; each name by itself
        apt purge -- $(dpkg-query -W -f '${Package}\n' 'linux-image-*cloud*')
    else
        # Ubuntu: one kernel for all, whose rarer drivers are a package of their own.
        for kernel in /lib/modules/*; do
            apt install --no-install-recommends -- "linux-modules-extra-${kernel##*/}"
        done
    fi
    has_display_driver || fail "no kernel of this image has a driver for the screen (virtio-gpu)"
}

has_display_driver() {
    find /lib/modules -name 'virtio-gpu.ko*' | grep -q . ||
        grep -qs /virtio-gpu.ko /lib/modules/*/modules.builtin
}

# apt-cache show would also know names that stand for other packages.
is_known() { apt-cache madison "$1" 2>/dev/null | grep -q .; }

install_xfce() {
    stage "Installing XFCE"
    apt install --no-install-recommends -- \
        xserver-xorg-core xserver-xorg-input-libinput x11-xserver-utils dbus-user-session polkitd \
        lightdm lightdm-gtk-greeter xfce4 xfce4-terminal xfce4-notifyd thunar mousepad \
        xdg-user-dirs librsvg2-common at-spi2-core
    please_the_eye arc-theme elementary-xfce-icon-theme fonts-inter fonts-jetbrains-mono
    lay_over desktop
    lay_over xfce
    chmod 755 /usr/local/bin/cyyber-lab
    # Programs that ask for "a terminal" get this one.
    update-alternatives --set x-terminal-emulator /usr/bin/xfce4-terminal.wrapper
    log_in_without_password lightdm
    systemctl set-default graphical.target
}

install_gnome() {
    stage "Installing GNOME"
    apt install --no-install-recommends -- \
        gdm3 gnome-session gnome-shell gnome-terminal nautilus gnome-control-center xwayland \
        dconf-cli xdg-user-dirs polkitd at-spi2-core
    please_the_eye fonts-inter fonts-jetbrains-mono
    lay_over desktop
    lay_over gnome
    chmod 755 /usr/local/bin/cyyber-lab
    dconf update
    log_in_without_password gdm-password
    # GDM leaves locked accounts ("!") out. No password is this one's, either.
    usermod --password '*' student
    systemctl set-default graphical.target
}

# Themes and fonts: where an archive lacks one, the desktop falls back to its own.
please_the_eye() {
    known=
    for package in "$@"; do
        if is_known "$package"; then known="$known $package"; fi
    done
    # shellcheck disable=SC2086 # each name by itself
    [ -z "$known" ] || apt install --no-install-recommends -- $known
}

# After logging out the student gets in again by choosing the name: there is no password to type.
log_in_without_password() {
    groupadd --system --force nopasswdlogin
    usermod --append --groups nopasswdlogin student
    # Ubuntu's files know that group already.
    if ! grep -q nopasswdlogin "/etc/pam.d/$1"; then
        sed -i '0,/^@include common-auth/s//auth      sufficient pam_succeed_if.so user ingroup nopasswdlogin\n&/' \
            "/etc/pam.d/$1"
    fi
    grep -q nopasswdlogin "/etc/pam.d/$1" || fail "cannot let the student log in: /etc/pam.d/$1 is not as expected"
}
