//! Domain definitions: those that we create, and those of running guests. The only random values
//! created here are ids and passwords.

use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use quick_xml::Writer;
use quick_xml::events::{BytesStart, BytesText};
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use super::edit::put_child;
use super::parse::{ImageXml, parse};
use crate::accelerator::Accelerator;
use crate::config::Lab;
use crate::names::InstanceName;
use crate::network::{HostPart, Mac};

pub use super::parse::{Origin, SecurityLabel};

/// The XML namespace of our facts in a domain's metadata.
const NAMESPACE: &str = "https://cyyber.lab/instance/1";

/// The template's name.
const DOMAIN: &str = "domain.xml";

/// The period of a CPU quota, in microseconds: libvirt's default.
pub const CPU_PERIOD: u32 = 100_000;

/// The first six bytes of the UUIDs of our domains. libvirt reports UUIDs with every listing, so
/// our domains can be recognised at no cost. The rest is random: a UUID must never be reused, or
/// libvirt would restore old memory with a new disk.
const TAG: [u8; 6] = *b"cyyber";

/// A UUID for a new domain of ours: version 8 (RFC 9562), our tag, 74 random bits.
pub fn new_uuid() -> Uuid {
    let mut bytes = Uuid::new_v4().into_bytes();
    bytes[..TAG.len()].copy_from_slice(&TAG);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Whether we created the domain with this UUID.
pub fn is_ours(uuid: Uuid) -> bool {
    uuid.as_bytes().starts_with(&TAG) && uuid.get_version_num() == 8
}

/// A console password: eight letters and digits, the most that VNC compares.
pub fn new_vnc_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 8)
}

/// The parameters of an instance's domain.
#[derive(Debug)]
pub struct InstanceDomain<'a> {
    /// The instance.
    pub name: &'a InstanceName,
    /// Its UUID, from [`new_uuid`].
    pub uuid: Uuid,
    /// Its lab.
    pub lab: &'a Lab,
    /// The overlay's absolute path.
    pub overlay: &'a str,
    /// The base build's absolute path.
    pub base: &'a str,
    /// The absolute path of the disk in between, if the overlay is based on the disk of a warm
    /// image.
    pub layer: Option<&'a str>,
    /// The base build's name.
    pub build: &'a str,
    /// The maximum length of the overlay, in bytes, if it was created with that length.
    pub largest: Option<u64>,
    /// Its network card.
    pub card: HostPart,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// The address on which its console listens.
    pub vnc_listen: std::net::IpAddr,
    /// Whether the kernel may merge pages of its memory with equal ones of other guests.
    pub share_memory: bool,
    /// When it was made.
    pub created: Timestamp,
}

impl InstanceDomain<'_> {
    /// The definition for libvirt.
    ///
    /// The backing file is named explicitly, so that its owner is not changed: libvirt would
    /// otherwise give the base image to the QEMU user, who could then make it writable.
    pub fn xml(&self) -> Result<String> {
        let lab = self.lab;
        render(context! {
            accelerator => self.accelerator.domain_type(),
            name => self.name.to_string(),
            uuid => self.uuid.to_string(),
            title => format!("{} — {}", lab.lab_name, self.name.user),
            namespace => NAMESPACE,
            instance => context! {
                lab => self.name.lab.as_str(),
                user => self.name.user.as_str(),
                build => self.build,
                created => self.created.to_string(),
            },
            disk => self.overlay,
            base => self.base,
            layer => self.layer,
            largest => self.largest,
            vnc_listen => self.vnc_listen.to_string(),
            share_memory => self.share_memory,
            ..lab_context(lab, self.card)
        })
    }
}

/// A definition that runs a lab's image directly, such as `lab01.xml` beside `lab01.qcow2`.
pub fn standalone_xml(lab: &Lab, disk: &str, accelerator: Accelerator) -> Result<String> {
    render(context! {
        accelerator => accelerator.domain_type(),
        name => lab.lab_id.as_str(),
        title => lab.lab_name.as_str(),
        disk,
        vnc_listen => "127.0.0.1",
        vnc_usable => true,
        ..lab_context(lab, HostPart::STANDALONE)
    })
}

/// The definition of a guest of a lab that is booted to save its memory, called `name`, with a
/// `disk` that is based on `base`. Its network interface is removed later.
pub fn warm_xml(
    lab: &Lab,
    name: &str,
    disk: &str,
    base: &str,
    accelerator: Accelerator,
) -> Result<String> {
    render(context! {
        accelerator => accelerator.domain_type(),
        name,
        uuid => new_uuid().to_string(),
        title => format!("{}: being warmed up", lab.lab_name),
        disk,
        base,
        vnc_listen => "127.0.0.1",
        ..lab_context(lab, HostPart::STANDALONE)
    })
}

/// The part of a definition that is the same for all labs.
pub const TEMPLATE: &str = include_str!("../../../templates/domain.xml");

fn lab_context(lab: &Lab, card: HostPart) -> minijinja::Value {
    context! {
        mac => Mac::from_host_part(card).to_string(),
        network => lab.network.network(),
        port => card.port(lab.network),
        memory_mb => lab.memory_mb,
        vcpus => lab.vcpus,
        // Software emulation does not use the host's CPU model, and guests of QEMU 7.2 hang in it
        // without `svm`.
        nested => lab.nested_virtualization,
        limits => context! {
            cpu_period => CPU_PERIOD,
            cpu_quota => lab.limits.cpu_percent.map(|percent| CPU_PERIOD * u32::from(percent) / 100),
            disk_bytes_per_second => lab.limits.disk_bytes_per_second.map(|size| size.0),
            disk_iops => lab.limits.disk_iops,
            network_kib_per_second => lab.limits.network_bytes_per_second.map(|size| size.0 >> 10),
        },
        // A domain always has a password; otherwise its console would be open to everyone, and a
        // password could not be added later. An instance's first password has expired and is never
        // shown.
        vnc_password => new_vnc_password(),
    }
}

fn render(values: minijinja::Value) -> Result<String> {
    environment()?
        .get_template(DOMAIN)
        .and_then(|template| template.render(values))
        .context("failed to render the domain definition")
}

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template(DOMAIN, TEMPLATE)?;
    Ok(environment)
}

/// The address of the console of a running domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The address it listens on.
    pub host: String,
    /// The VNC port.
    pub port: u16,
    /// The port that speaks VNC over WebSocket, for noVNC.
    pub websocket: Option<u16>,
}

impl Console {
    /// The console of the running domain with the definition `xml`; `None` if it has none.
    pub fn from_xml(xml: &str) -> Result<Option<Console>> {
        let mut graphics = parse(xml)?.devices.graphics.into_iter();
        let vnc = graphics.find(|it| it.kind == "vnc");
        Ok(vnc.and_then(|vnc| {
            Some(Console {
                host: vnc.listen?,
                port: positive(vnc.port)?,
                websocket: positive(vnc.websocket),
            })
        }))
    }

    /// The device XML that sets a new password for this console.
    pub fn with_password(&self, password: &str, valid_to: Timestamp) -> Result<String> {
        // libvirt uses UTC, without stating it.
        let valid_to = valid_to.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let port = self.port.to_string();
        let websocket = self.websocket.map(|it| it.to_string());
        let mut writer = Writer::new(Vec::new());
        writer
            .create_element("graphics")
            .with_attributes([("type", "vnc"), ("port", &*port), ("autoport", "yes")])
            .with_attributes(websocket.iter().map(|port| ("websocket", &**port)))
            .with_attributes([("listen", &*self.host), ("passwd", password)])
            .with_attribute(("passwdValidTo", &*valid_to))
            .write_inner_content(|writer| {
                let listen = writer.create_element("listen");
                let listen =
                    listen.with_attributes([("type", "address"), ("address", &*self.host)]);
                listen.write_empty().map(drop)
            })?;
        Ok(String::from_utf8(writer.into_inner())?)
    }
}

fn positive(port: Option<i32>) -> Option<u16> {
    u16::try_from(port?).ok().filter(|port| *port != 0)
}

impl Origin {
    /// The facts in the definition `xml`, if they are there.
    pub fn from_xml(xml: &str) -> Result<Option<Origin>> {
        Ok(parse(xml)?.metadata.and_then(|metadata| metadata.instance))
    }
}

/// A disk in a definition.
#[derive(Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its target, such as `vda`.
    pub target: String,
    /// Its own file, then its backing files; none if it is not a file.
    pub files: Vec<PathBuf>,
}

/// The disks in the definition `xml`.
pub fn disks(xml: &str) -> Result<Vec<Disk>> {
    let disks = parse(xml)?.devices.disks.into_iter();
    let disk = |mut image: ImageXml| {
        let target = image.target.take().and_then(|it| it.device);
        let (target, files) = (target.unwrap_or_default(), image.files());
        Disk { target, files }
    };
    Ok(disks.map(disk).collect())
}

/// The security labels of the domain in the definition `xml`.
pub fn security_labels(xml: &str) -> Result<Vec<SecurityLabel>> {
    Ok(parse(xml)?.labels)
}

/// The UUID in the definition `xml`.
pub fn uuid_of(xml: &str) -> Result<Uuid> {
    parse(xml)?.uuid.context("the definition has no UUID")
}

/// The definition `xml` with the generation id of the definition that its memory was `saved` with,
/// if both have one. libvirt gives a guest a new id whenever its memory is restored, so that it
/// does not reuse its random numbers, but only restores the memory with the id that it was saved
/// with.
pub fn with_generation(xml: String, saved: &str) -> Result<String> {
    let generation = |xml: &str| -> Result<Option<Uuid>> {
        Ok(parse(xml)?.generation.and_then(|id| id.trim().parse().ok()))
    };
    let (Some(now), Some(then)) = (generation(&xml)?, generation(saved)?) else {
        return Ok(xml);
    };
    if now == then {
        return Ok(xml);
    }
    let replaced = |tag: &BytesStart| tag.name().as_ref() == "genid";
    put_child(&xml, &["domain"], replaced, |writer| {
        let text = then.to_string();
        let genid = writer.create_element("genid");
        genid.write_text_content(BytesText::new(&text)).map(drop)
    })
}

/// The definition `xml` with `label` as its owner (libvirt's model "dac"), replacing the present
/// one.
///
/// libvirt gives the domain's files to this owner while the domain runs, and restores their owners
/// afterwards. QEMU gets this group and no other, not even `kvm`.
pub fn with_owner(xml: &str, label: &str) -> Result<String> {
    let names_an_owner = |tag: &BytesStart| {
        let model = || tag.try_get_attribute("model").ok().flatten();
        tag.name().as_ref() == "seclabel" && model().is_some_and(|model| model.value == "dac")
    };
    put_child(xml, &["domain"], names_an_owner, |writer| {
        writer
            .create_element("seclabel")
            .with_attributes([("type", "static"), ("model", "dac"), ("relabel", "yes")])
            .write_inner_content(|writer| {
                let element = writer.create_element("label");
                element.write_text_content(BytesText::new(label)).map(drop)
            })
            .map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::xml::interface::Interface;

    fn lab(motd: &str) -> Lab {
        serde_json::from_value(serde_json::json!({
            "lab_id": "lab01", "lab_name": "Fish & <Chips> \"'", "packages": [], "motd": motd,
            "limits": {"disk_iops": 500, "network_bytes_per_second": "2M", "cpu_percent": 40},
        }))
        .unwrap()
    }

    fn instance_xml(uuid: Uuid) -> String {
        InstanceDomain {
            name: &"lab01_user_7".parse().unwrap(),
            uuid,
            lab: &lab(""),
            overlay: "/images/user-instances/lab01_user_7.qcow2",
            base: "/images/base & co/lab01-base.1.qcow2",
            layer: None,
            build: "1",
            largest: Some(10 << 30),
            card: HostPart::of_instance(77).unwrap(),
            accelerator: Accelerator::Tcg,
            vnc_listen: std::net::Ipv4Addr::LOCALHOST.into(),
            share_memory: false,
            created: Timestamp::UNIX_EPOCH,
        }
        .xml()
        .unwrap()
    }

    #[test]
    fn our_uuids_are_ours_and_differ() {
        let (one, two) = (new_uuid(), new_uuid());
        assert!(is_ours(one) && is_ours(two) && one != two);
        assert!(!is_ours(Uuid::new_v4()));
    }

    #[test]
    fn values_are_escaped_and_read_back() {
        let xml = instance_xml(new_uuid());
        assert!(xml.contains("Fish &amp; &lt;Chips&gt;"), "{xml}");
        assert!(xml.contains("base &amp; co"), "{xml}");
        assert!(
            xml.contains("<total_iops_sec>500<") && !xml.contains("<total_bytes_sec>"),
            "{xml}"
        );
        assert!(xml.contains("<inbound average='2048'/>"), "{xml}");
        assert!(xml.contains("<quota>40000</quota>"), "{xml}");
        assert!(xml.contains("<nosharepages/>"), "{xml}");
        let emulator = "<emulator_quota>100000</emulator_quota>";
        assert!(xml.contains(emulator), "{xml}");
        let is_nested = |accelerator, nested_virtualization| {
            let lab = Lab {
                nested_virtualization,
                ..lab("")
            };
            let xml = standalone_xml(&lab, "/x.qcow2", accelerator).unwrap();
            !xml.contains("<feature policy='disable' name='vmx'/>")
        };
        assert!(is_nested(Accelerator::Kvm, true) && !is_nested(Accelerator::Kvm, false));
        assert!(is_nested(Accelerator::Tcg, false));
        assert!(xml.contains("size='10737418240'/>"), "{xml}");
        let origin = Origin::from_xml(&xml).unwrap().unwrap();
        assert_eq!(
            (origin.build.as_str(), origin.created),
            ("1", Timestamp::UNIX_EPOCH)
        );
        let files = [
            "/images/user-instances/lab01_user_7.qcow2",
            "/images/base & co/lab01-base.1.qcow2",
        ];
        let disk = Disk {
            target: "vda".to_owned(),
            files: files.map(PathBuf::from).into(),
        };
        assert_eq!(disks(&xml).unwrap(), [disk]);
        assert_eq!(
            Console::from_xml(&xml).unwrap(),
            None,
            "no port before power-on"
        );
    }

    #[test]
    fn memory_keeps_the_generation_that_it_was_saved_with() {
        let with = |genid: &str| format!("<domain>{genid}<devices><disk/></devices></domain>");
        let [one, two] = [new_uuid(), new_uuid()].map(|id| format!("<genid>{id}</genid>"));
        let both = with_generation(with(&one), &with(&two)).unwrap();
        assert!(both.contains(&two) && !both.contains(&one), "{both}");
        assert_eq!(both.matches("genid").count(), 2);
        for (now, then) in [
            (&*one, ""),
            ("", &*one),
            (&one, &one),
            (&one, "<genid>x</genid>"),
        ] {
            assert_eq!(with_generation(with(now), &with(then)).unwrap(), with(now));
        }
    }

    #[test]
    fn a_network_card_is_at_the_port_that_goes_with_it() {
        let card = Interface::from_xml(&instance_xml(new_uuid())).unwrap();
        assert_eq!(card.mac.to_string(), "52:63:79:79:00:4d");
        assert_eq!(card.network.as_deref(), Some("cyyber-nat"));
        assert_eq!(card.device.as_deref(), Some("cyyber-n77"));
        assert!(card.is_at_its_port() && !card.is_filtered);
        let standalone = standalone_xml(&lab(""), "/images/lab01.qcow2", Accelerator::Tcg).unwrap();
        let card = Interface::from_xml(&standalone).unwrap();
        assert_eq!(card.mac, Mac::from_host_part(HostPart::STANDALONE));
        assert_eq!(card.device.as_deref(), Some("cyyber-n2"));
    }

    #[test]
    fn a_live_console_is_read_and_its_password_device_matches_it() {
        let xml = "<domain><devices><graphics type='vnc' port='5901' autoport='yes' websocket='5700' \
                   listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics></devices></domain>";
        let console = Console::from_xml(xml).unwrap().unwrap();
        assert_eq!((console.port, console.websocket), (5901, Some(5700)));
        let valid_to = "2026-11-23T10:00:30Z".parse().unwrap();
        let device = console.with_password("s3cret", valid_to).unwrap();
        assert!(
            device.contains("passwdValidTo=\"2026-11-23T10:00:30\""),
            "{device}"
        );
        let again =
            Console::from_xml(&format!("<domain><devices>{device}</devices></domain>")).unwrap();
        assert_eq!(again, Some(console));
    }
}
