#!/bin/sh
# The first half of a build, the same for many labs: turns a cloud image into Cyyber Linux, as root,
# inside the guest. What is wanted is in the files beside this script, one thing a file; none of it
# is ever read as shell:
#
#   desktop    the graphical desktop: none, xfce or gnome
#   branding/  logo.png, wallpaper.jpg, login.png and the GRUB theme in grub/
#
# In files/ beside this script is what goes into the image as it is: every/ into each, desktop/ into
# those with a desktop, xfce/ and gnome/ into those with that one.
set -eu
# shellcheck source=common.sh
. /var/tmp/cyyber/common.sh
# shellcheck source=brand.sh
. /var/tmp/cyyber/brand.sh
# shellcheck source=desktop.sh
. /var/tmp/cyyber/desktop.sh

# A cloud image updates itself behind one's back: now that would hold the package manager's locks,
# and later every instance of a class would download the same each day.
stop_automatic_updates() {
    for unit in apt-daily.timer apt-daily-upgrade.timer motd-news.timer unattended-upgrades.service; do
        systemctl disable --now "$unit" >/dev/null 2>&1 || true
    done
    systemctl stop apt-daily.service apt-daily-upgrade.service >/dev/null 2>&1 || true
}

upgrade() {
    stage "Upgrading packages"
    apt upgrade --with-new-pkgs
}

# What every lab needs: the agent for clean shutdowns and readiness, logind for the power button,
# fonts for the text console.
install_common_packages() {
    stage "Installing what every lab has"
    apt install -- qemu-guest-agent dbus libpam-systemd sudo console-setup
}

# Lets the student capture packets without being root, in labs that install Wireshark.
answer_questions_of_packages() {
    echo 'wireshark-common wireshark-common/install-setuid boolean true' | debconf-set-selections
}

# The student is logged in on the VM's screen, whose password guards it, and is root by sudo in a VM
# of their own. The account has no password, so there is none to guess over the network.
add_student() {
    stage "Adding the student"
    id student >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --comment "Lab student" student
    install -D -m 440 /dev/null /etc/sudoers.d/90-student
    echo 'student ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/90-student
    install -D -m 644 "$here/autologin.conf" /etc/systemd/system/getty@tty1.service.d/autologin.conf
}

wait_for_first_boot
stop_automatic_updates
read_package_lists
upgrade
install_common_packages
answer_questions_of_packages
add_student
install_desktop
brand
# What the archive has, so that the packages of a lab can be looked for before its VM boots: the names
# of packages, and behind names that they provide, with a tab, theirs. The lists stay: labs are made
# from this soon.
report_archive() {
    apt-cache pkgnames
    # shellcheck disable=SC2016 # awk's own
    apt-cache dumpavail | awk '
        $1 == "Package:" { package = $2 }
        sub(/^Provides: */, "") {
            gsub(/ *\([^)]*\)|:[a-z0-9]+/, "")
            count = split($0, names, / *, */)
            for (i = 1; i <= count; i++) print names[i] "\t" package
        }'
}
report_archive >"$here/report"
apt clean
