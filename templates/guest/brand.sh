#!/bin/sh
# What makes a system Cyyber Linux, from the boot menu to the message of the day; read by stage.sh
# and never run by itself.
# shellcheck disable=SC2154 # $here is set in common.sh

brand() {
    stage "Branding"
    lay_over every
    place_pictures
    name_the_system
    silence_the_distribution
    style_the_boot_menu
    style_the_console
}

place_pictures() {
    install -D -m 644 "$here/branding/logo.png" /usr/share/pixmaps/cyyber-logo.png
    install -D -m 644 "$here/branding/wallpaper.jpg" /usr/share/backgrounds/cyyber-wallpaper.jpg
    install -D -m 644 "$here/branding/login.png" /usr/share/backgrounds/cyyber-login.png
}

# Only the name for people changes. What package tools look at (ID, VERSION_ID, VERSION_CODENAME)
# stays, and so the archives do. An upgrade of base-files renews the diverted file, not ours.
name_the_system() {
    ours=/usr/lib/os-release
    theirs=$ours.distribution
    if [ ! -e "$theirs" ]; then
        cp -p "$ours" "$theirs"
        dpkg-divert --local --no-rename --divert "$theirs" --add "$ours"
    fi
    # shellcheck source=/dev/null
    base=$(. "$theirs" && printf '%s' "$NAME $VERSION_ID")
    {
        printf 'PRETTY_NAME="Cyyber Linux (%s)"\n' "$base"
        grep -Ev '^(PRETTY_NAME|VARIANT|VARIANT_ID|LOGO)=' "$theirs"
        printf 'VARIANT="Cyyber Linux"\nVARIANT_ID=cyyber\nLOGO=cyyber-logo\n'
    } >"$here/os-release"
    install -m 644 "$here/os-release" "$ours"
    # A link to it, unless an image put a file of its own there.
    ln -sfn ../usr/lib/os-release /etc/os-release
    # Above the login on a text console: \n is the hostname, \l the console.
    printf 'Cyyber Linux \\n \\l\n\n' >/etc/issue
    printf 'Cyyber Linux\n' >/etc/issue.net
}

# What the distribution says of itself at each login: kernel, news, advertisements.
silence_the_distribution() {
    if [ -d /etc/update-motd.d ]; then
        find /etc/update-motd.d -type f -exec chmod -x {} +
    fi
    rm -f /run/motd.dynamic
}

style_the_boot_menu() {
    command -v update-grub >/dev/null || return 0
    mkdir -p /boot/grub/themes/cyyber
    cp -r --no-preserve=mode,ownership "$here/branding/grub/." /boot/grub/themes/cyyber/
    update-grub
}

# Keeps the font that /etc/default/console-setup asks for where the next boot looks for it.
style_the_console() { setupcon --save-only; }
