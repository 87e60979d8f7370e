use super::*;
use crate::units::Patience;

/// The smallest file of the contract, with `extra` keys in its lab and in the document.
fn file(lab_extra: &str, extra: &str) -> String {
    format!(
        r#"{{"labs": [{{"lab_id": "lab01", "lab_name": "Network Scanning Basics",
            "packages": ["nmap", "net-tools", "wireshark"],
            "motd": "Lab 01: Network Scanning — Cyyber Linux"{lab_extra}}}]{extra}}}"#
    )
}

fn load(text: &str) -> Result<Config> {
    parse(text.as_bytes(), Path::new("/etc/cyyber/labs-config.json"))
}

fn error(text: &str) -> String {
    format!("{:#}", load(text).unwrap_err())
}

#[test]
fn the_smallest_file_gets_every_default() {
    let config = load(&file("", "")).unwrap();
    let lab = &config.labs[0];
    assert_eq!(
        (lab.memory_mb, lab.vcpus, lab.disk_size.to_string()),
        (2048, 2, "20G".to_owned())
    );
    assert_eq!(
        (lab.desktop, lab.network),
        (Desktop::None, NetworkMode::Nat)
    );
    assert!(
        lab.image
            .url
            .to_string()
            .starts_with("https://cloud-images.ubuntu.com/")
    );
    assert!(lab.image.checksum.is_some());
    assert_eq!(config.host.connect.as_str(), "qemu:///system");
}

#[test]
fn a_lab_overrides_the_defaults_key_by_key() {
    let config = load(&file(
        r#", "policy": {"idle_after": "never"}, "memory_mb": 512"#,
        r#", "defaults": {"memory_mb": 4096, "vcpus": 4, "policy": {"boot_timeout": "9m"}}"#,
    ))
    .unwrap();
    let lab = &config.labs[0];
    assert_eq!((lab.memory_mb, lab.vcpus), (512, 4));
    assert_eq!(lab.policy.idle_after, Patience::Never);
    assert_eq!(lab.policy.boot_timeout.0.as_secs(), 540);
}

#[test]
fn an_image_replaces_the_default_one_whole() {
    let text = file(
        r#", "image": {"url": "images/debian.qcow2"}"#,
        r#", "defaults": {"image": {"url": "https://example.org/a.img", "checksum": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}}"#,
    );
    let lab = &load(&text).unwrap().labs[0];
    assert_eq!(
        lab.image.url,
        ImageUrl::Path("/etc/cyyber/images/debian.qcow2".into())
    );
    assert!(lab.image.checksum.is_none());
}

#[test]
fn errors_name_the_place_and_what_is_allowed() {
    for (text, wanted) in [
        (
            file(r#", "memroy_mb": 1"#, ""),
            "labs[0].memroy_mb: unknown field `memroy_mb`, expected one of",
        ),
        (
            file(r#", "memory_mb": "2G""#, ""),
            "labs[0].memory_mb: invalid type: string \"2G\", expected u32",
        ),
        (
            file(r#", "memory_mb": 1"#, ""),
            "labs[0].memory_mb: 1 is out of range: allowed is 128 to 1048576",
        ),
        (
            file(r#", "disk_size": "20""#, ""),
            "labs[0].disk_size: bad size '20'",
        ),
        (
            file(r#", "policy": {"idle_after": "soon"}"#, ""),
            "labs[0].policy.idle_after: bad duration 'soon'",
        ),
        (
            file("", r#", "defaults": {"policy": {"idle_after": "soon"}}"#),
            "defaults.policy.idle_after: bad duration",
        ),
        (
            file("", r#", "defaults": {"memory_mb": 1}"#),
            "defaults.memory_mb: 1 is out of range",
        ),
        (
            file("", r#", "defaults": {"motd": "hi"}"#),
            "defaults.motd: belongs to a lab",
        ),
        (
            file(
                r#", "image": {"url": "https://me:secret@example.org/x.img"}"#,
                "",
            ),
            "labs[0].image.url: an image address with a user and password",
        ),
        (
            file(r#", "image": {"url": "https://example.org/x.img"}"#, ""),
            "labs[0].image: a download needs its",
        ),
        (
            file(r#", "image": {"url": "http://example.org/x.img"}"#, ""),
            "labs[0].image.url: bad image address",
        ),
        (
            file(r#", "network": "open""#, ""),
            "labs[0].network: unknown variant `open`, expected `isolated` or `nat`",
        ),
        (
            file("", r#", "host": {"vnc_listen": "everywhere"}"#),
            "host.vnc_listen: invalid",
        ),
        (
            file("", r#", "host": {"vnc_listen": "0.0.0.0"}"#),
            "host.vnc_listen: 0.0.0.0 is reached from other hosts",
        ),
        (
            file(r#", "limits": {"cpu_percent": 101}"#, ""),
            "labs[0].limits.cpu_percent: 101 is out of range: allowed is 1 to 100",
        ),
        (
            file(r#", "limits": {"overlay_size": "1M"}"#, ""),
            "labs[0].limits.overlay_size: 1M is out of range: allowed is 64M to 16T",
        ),
        // Which QEMU and tc refuse when an instance is started.
        (
            file(r#", "limits": {"disk_bytes_per_second": "1000T"}"#, ""),
            "labs[0].limits.disk_bytes_per_second: 1000T is out of range: allowed is 1K to 1T",
        ),
        (
            file(r#", "limits": {"network_bytes_per_second": "4G"}"#, ""),
            "labs[0].limits.network_bytes_per_second: 4G is out of range: allowed is 1K to 4095M",
        ),
        (file("", r#", "hots": {}"#), "hots: unknown field `hots`"),
        (
            file(r#", "limits": {"disk_iops": 0}"#, ""),
            "labs[0].limits.disk_iops: 0 is not allowed",
        ),
        (
            file(r#", "desktop": "kde""#, ""),
            "labs[0].desktop: unknown variant `kde`, expected one of `none`, `xfce`, `gnome`",
        ),
        (
            file(
                r#", "provision": {"files": [{"source": "a", "target": "/srv/../etc/shadow"}]}"#,
                "",
            ),
            "labs[0].provision.files[0].target: bad target '/srv/../etc/shadow'",
        ),
        (
            file(
                r#", "provision": {"files": [{"source": "a", "target": "/a", "mode": "rwx"}]}"#,
                "",
            ),
            "labs[0].provision.files[0].mode: bad mode 'rwx'",
        ),
        (
            file(
                r#", "provision": {"files": [{"source": "a", "target": "/a"}, {"source": "b", "target": "/a"}]}"#,
                "",
            ),
            "labs[0].provision.files: two files have the target /a",
        ),
        (
            file("", r#", "defaults": {"branding": {"icon": "x.png"}}"#),
            "defaults.branding.icon: unknown field `icon`",
        ),
        (
            r#"{"labs": []}"#.to_owned(),
            "labs: at least one lab is needed",
        ),
        (r#"{}"#.to_owned(), "missing field `labs`"),
        ("[1, 2".to_owned(), "at line 1 column 5"),
        (
            file("", "").replace("nmap", "-o"),
            "labs[0].packages[0]: bad package name '-o'",
        ),
        (
            file("", "").replace("lab01", "../lab"),
            "labs[0].lab_id: bad lab id '../lab'",
        ),
    ] {
        let said = error(&text);
        assert!(said.contains(wanted), "wanted: {wanted}\nsaid:   {said}");
    }
}

#[test]
fn files_are_named_relative_to_the_configuration() {
    let text = file(
        r#", "branding": {"logo": "school.png"},
           "provision": {"files": [{"source": "flags/one", "target": "/srv/flag"}], "scripts": ["/opt/x.sh"]}"#,
        r#", "defaults": {"branding": {"logo": "other.png", "wallpaper": "w.jpg"}},
           "host": {"templates_dir": "mine"}"#,
    );
    let config = load(&text).unwrap();
    let lab = &config.labs[0];
    let path = |path: &SourcePath| path.as_path().to_str().unwrap().to_owned();
    assert_eq!(
        lab.branding.logo.as_ref().map(path).as_deref(),
        Some("/etc/cyyber/school.png"),
        "the lab's own comes first"
    );
    assert_eq!(
        lab.branding.wallpaper.as_ref().map(path).as_deref(),
        Some("/etc/cyyber/w.jpg")
    );
    let given = &lab.provision.files[0];
    assert_eq!(path(&given.source), "/etc/cyyber/flags/one");
    assert_eq!(
        (given.mode.to_string(), given.owner.to_string()),
        ("0644".to_owned(), "root".to_owned())
    );
    assert_eq!(path(&lab.provision.scripts[0]), "/opt/x.sh");
    assert_eq!(
        config.host.templates_dir.as_deref(),
        Some(Path::new("/etc/cyyber/mine"))
    );
}

#[test]
fn consoles_listen_elsewhere_only_where_that_is_said_twice() {
    let exposed = r#", "host": {"vnc_listen": "192.0.2.1", "vnc_exposed": true}"#;
    let host = load(&file("", exposed)).unwrap().host;
    assert_eq!(host.vnc_listen.to_string(), "192.0.2.1");
    let other_loopback = r#", "host": {"vnc_listen": "::1"}"#;
    assert!(load(&file("", other_loopback)).is_ok());
}

#[test]
fn two_labs_cannot_share_an_id() {
    let lab = r#"{"lab_id": "a", "lab_name": "A", "packages": [], "motd": ""}"#;
    let said = error(&format!(r#"{{"labs": [{lab}, {lab}]}}"#));
    assert!(
        said.contains("labs[1].lab_id: 'a' is already the id of another lab"),
        "{said}"
    );
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    assert!(error(&"[".repeat(100_000)).contains("recursion limit"));
}

#[test]
fn a_missing_file_is_a_configuration_error() {
    let error = Config::load(Some(Path::new("/nonexistent/labs.json"))).unwrap_err();
    assert_eq!(crate::error::kind_of(&error), Kind::Config);
}
