//! The pictures of Cyyber Linux are what their places in a guest want, and were rendered from the
//! sources beside them: `branding/render.sh` writes them anew after a change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn branding() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("branding")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(branding().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

/// The names of all files below `branding/`, from there.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let name = path.strip_prefix(branding()).unwrap();
            found.insert(name.to_str().unwrap().to_owned());
        }
    }
    found
}

/// Width and height of a PNG, by its first chunk.
fn size_of_png(name: &str) -> (u32, u32) {
    let bytes = read(name);
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{name} is no PNG");
    assert_eq!(bytes[12..16], *b"IHDR", "{name}");
    // GRUB reads no interlaced pictures.
    assert_eq!(bytes[28], 0, "{name} is interlaced");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// Width and height of a JPEG, by its first frame's header.
fn size_of_jpeg(name: &str) -> (u16, u16) {
    let bytes = read(name);
    assert!(bytes.starts_with(b"\xff\xd8\xff"), "{name} is no JPEG");
    let number = |at: usize| u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
    let mut at = 2;
    while !(0xc0..=0xc2).contains(&bytes[at + 1]) {
        at += 2 + usize::from(number(at + 2));
    }
    (number(at + 7), number(at + 5))
}

#[test]
fn pictures_have_the_size_and_format_of_their_places() {
    assert_eq!(size_of_png("logo.png"), (256, 256));
    assert_eq!(size_of_png("login.png"), (1920, 1080));
    assert_eq!(size_of_jpeg("wallpaper.jpg"), (1920, 1080));
    assert_eq!(size_of_png("grub/splash.png"), (1280, 800));
    for end in ["w", "c", "e"] {
        assert_eq!(size_of_png(&format!("grub/select_{end}.png")), (8, 36));
    }
    // They are in the program and in every image.
    for (name, most) in [
        ("logo.png", 32),
        ("login.png", 300),
        ("wallpaper.jpg", 300),
        ("grub/splash.png", 200),
    ] {
        let kib = read(name).len() / 1024;
        assert!(kib < most, "{name} has {kib} KiB, at most {most} are meant");
    }
}

#[test]
fn what_is_rendered_belongs_to_the_sources() {
    let listed: BTreeSet<String> = text("SHA256SUMS")
        .lines()
        .map(|line| line.split_once("  ").unwrap().1.to_owned())
        .collect();
    let mut there = files(&branding());
    for own in ["SHA256SUMS", "render.sh"] {
        assert!(there.remove(own), "{own}");
    }
    assert_eq!(there, listed, "run branding/render.sh");
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(branding())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "changed without branding/render.sh: {}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn the_boot_menus_theme_has_all_that_it_names() {
    let theme = text("grub/theme.txt");
    let quoted: Vec<&str> = theme.split('"').skip(1).step_by(2).collect();
    let there = files(&branding().join("grub"));
    let mut pictures = 0;
    for name in quoted.iter().filter(|name| name.ends_with(".png")) {
        let (begin, end) = name.split_once('*').unwrap_or((name, ""));
        let found = there.iter().any(|file| {
            let file = file.strip_prefix("grub/").unwrap();
            file.starts_with(begin) && file.ends_with(end)
        });
        assert!(found, "{name}");
        pictures += 1;
    }
    assert!(pictures >= 2, "{theme}");

    let fonts: Vec<Vec<u8>> = there
        .iter()
        .filter(|name| name.ends_with(".pf2"))
        .map(|name| read(name))
        .collect();
    let named: BTreeSet<&&str> = quoted.iter().filter(|s| s.starts_with("Cyyber ")).collect();
    assert!(!named.is_empty(), "{theme}");
    for font in named {
        // A PF2 font begins with its name, ended by a zero byte.
        let wanted = [font.as_bytes(), b"\0"].concat();
        let has_it = |bytes: &Vec<u8>| bytes[..100].windows(wanted.len()).any(|w| w == wanted);
        assert!(fonts.iter().any(has_it), "no font is called {font}");
    }
}
