//! The built-in assets, or those of a school or a lab that replace them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use include_dir::{Dir, include_dir};

use super::templates::contents;
use super::unusable;
use crate::config::{Lab, SourcePath};

static BRANDING: Dir = include_dir!("$CARGO_MANIFEST_DIR/branding");

/// The branding files for guests; their sources are in the same directory.
const PICTURES: [&str; 3] = [LOGO, WALLPAPER, LOGIN];
const LOGO: &str = "logo.png";
const WALLPAPER: &str = "wallpaper.jpg";
const LOGIN: &str = "login.png";
const GRUB_THEME: &str = "grub/";
const GRUB_BACKGROUND: &str = "grub/splash.png";

/// The maximum size of a picture, in bytes.
const LARGEST: u64 = 32 << 20;

const PNG: Kinds = &[("PNG", b"\x89PNG\r\n\x1a\n")];
const JPEG: Kinds = &[("JPEG", b"\xff\xd8\xff")];
const EITHER: Kinds = &[PNG[0], JPEG[0]];

/// Picture formats and their first bytes.
type Kinds = &'static [(&'static str, &'static [u8])];

/// Assets by their paths below `branding/` in the guest.
pub type Assets = BTreeMap<String, Vec<u8>>;

/// The assets of `lab`.
pub fn of(lab: &Lab) -> Result<Assets> {
    let wanted = |name: &str| PICTURES.contains(&name) || name.starts_with(GRUB_THEME);
    let mut assets: Assets = contents(&BRANDING)
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, content)| (name.to_owned(), content.to_vec()))
        .collect();
    let branding = &lab.branding;
    for (key, name, kinds, own) in [
        ("logo", LOGO, PNG, &branding.logo),
        ("wallpaper", WALLPAPER, JPEG, &branding.wallpaper),
        (
            "grub_background",
            GRUB_BACKGROUND,
            PNG,
            &branding.grub_background,
        ),
        (
            "login_background",
            LOGIN,
            EITHER,
            &branding.login_background,
        ),
    ] {
        if let Some(own) = own {
            let content = picture(own, kinds).with_context(|| {
                unusable(lab, &format!("branding.{key}"), own)
                    .hint("correct it in the configuration, or remove it to use the default")
            })?;
            assets.insert(name.to_owned(), content);
        }
    }
    Ok(assets)
}

fn picture(own: &SourcePath, kinds: Kinds) -> Result<Vec<u8>> {
    let path = own.as_path();
    let there = std::fs::metadata(path)?;
    let largest = LARGEST >> 20;
    ensure!(there.is_file(), "it is not a file");
    ensure!(there.len() <= LARGEST, "it is larger than {largest} MiB");
    let content = std::fs::read(path)?;
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    ensure!(
        kinds.iter().any(|(_, begin)| content.starts_with(begin)),
        "it is not a {} picture",
        names.join(" or ")
    );
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind_of};
    use serde_json::json;

    fn lab(branding: serde_json::Value) -> Lab {
        serde_json::from_value(json!({
            "lab_id": "lab01", "lab_name": "Lab", "packages": [], "motd": "", "branding": branding,
        }))
        .unwrap()
    }

    #[test]
    fn a_school_brings_its_own_pictures() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("school");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nschool").unwrap();
        let ours = of(&lab(json!({}))).unwrap();
        assert!(ours[LOGO].starts_with(PNG[0].1), "the product's own logo");
        assert!(!ours.contains_key("logo.svg"), "sources stay at home");
        let own = of(&lab(json!({"logo": path, "login_background": path}))).unwrap();
        assert!(own[LOGO].ends_with(b"school") && own[LOGIN].ends_with(b"school"));

        for (key, place) in [("wallpaper", path.clone()), ("logo", path.join("missing"))] {
            let error = of(&lab(json!({key: place}))).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Config);
            let said = format!("{error:#}");
            assert!(
                said.contains(&format!("branding.{key} of lab 'lab01'")),
                "{said}"
            );
        }
    }
}
