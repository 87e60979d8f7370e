#!/usr/bin/env bash
# Renders the pictures and fonts of Cyyber Linux from their sources, for maintainers: run it after a
# change of an SVG file here and commit what it wrote. What is rendered is committed because neither
# a build of the program nor a build of a lab should need these tools.
#
# Needs (Debian): librsvg2-bin imagemagick grub-common fonts-inter
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")"

readonly FONT=/usr/share/fonts/opentype/inter/Inter-Regular.otf
# What menu entries are written in: Latin, punctuation, arrows.
readonly LETTERS=0x20-0x7e,0xa0-0x17f,0x2013-0x2026,0x2190-0x2193

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

for size in 14 20; do
    # It warns of features of the font that a boot menu has no use for.
    grub-mkfont --name Cyyber --size "$size" --range "$LETTERS" --output "grub/cyyber-$size.pf2" \
        "$FONT" 2>"$work/mkfont" || {
        cat "$work/mkfont" >&2
        exit 1
    }
done

# A test finds what was changed without being rendered.
find . -type f ! -name SHA256SUMS ! -name render.sh -printf '%P\n' | LC_ALL=C sort |
    xargs sha256sum >"$work/sums"
install -m 644 "$work/sums" SHA256SUMS
