#!/usr/bin/env bash
# Renders the pictures and fonts of Cyyber Linux from their sources, for maintainers: run it after a
# change of an SVG file here and commit what it wrote. What is rendered is committed because neither
# a build of the program nor a build of a lab should need these tools.
#
# Needs (Debian): librsvg2-bin imagemagick grub-common fonts-inter fonts-jetbrains-mono
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")"

readonly FONT=/usr/share/fonts/opentype/inter/Inter-Regular.otf
readonly MONO=/usr/share/fonts/truetype/jetbrains-mono/JetBrainsMono-Regular.ttf
# Latin, punctuation, arrows, and what boxes are drawn with.
readonly LETTERS=0x20-0x7e,0xa0-0x17f,0x2013-0x2026,0x2190-0x2193,0x2500-0x257f

for tool in rsvg-convert convert grub-mkfont; do
    command -v "$tool" >/dev/null || {
        printf 'error: cannot render: %s is missing\n' "$tool" >&2
        exit 1
    }
done
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

rsvg-convert --width 256 --height 256 logo.svg --output logo.png
rsvg-convert --width 1920 --height 1080 login.svg --output login.png
rsvg-convert --width 1280 --height 800 grub-splash.svg --output grub/splash.png

rsvg-convert --width 1920 --height 1080 wallpaper.svg --output "$work/wallpaper.png"
convert "$work/wallpaper.png" -strip -quality 90 -sampling-factor 4:4:4 wallpaper.jpg

# GRUB stretches the middle and leaves the ends as they are.
rsvg-convert --width 24 --height 36 grub-select.svg --output "$work/select.png"
convert "$work/select.png" -crop 8x36+0+0 +repage -strip PNG32:grub/select_w.png
convert "$work/select.png" -crop 8x36+8+0 +repage -strip PNG32:grub/select_c.png
convert "$work/select.png" -crop 8x36+16+0 +repage -strip PNG32:grub/select_e.png

make_font() { # NAME SIZE FILE FONT
    # It warns of features of the font that a boot menu has no use for.
    grub-mkfont --name "$1" --size "$2" --range "$LETTERS" --output "grub/$3" "$4" 2>"$work/mkfont" || {
        cat "$work/mkfont" >&2
        exit 1
    }
}
make_font Cyyber 14 cyyber-14.pf2 "$FONT"
make_font Cyyber 20 cyyber-20.pf2 "$FONT"
# GRUB writes its text in the font that was loaded last, by name: here that of the terminal.
make_font 'Cyyber Mono' 16 cyyber-mono-16.pf2 "$MONO"

# A test finds what was changed without being rendered.
find . -type f ! -name SHA256SUMS ! -name render.sh -printf '%P\n' | LC_ALL=C sort |
    xargs sha256sum >"$work/sums"
install -m 644 "$work/sums" SHA256SUMS
