//! The channel through which files go into a guest and out of it.

use std::io;

use anyhow::Result;
use quick_xml::Writer;

use super::edit::put_child;
use super::parse::parse;

/// What all names begin with, in the guest as well. A name is short: it ends the path of a socket.
const PREFIX: &str = "org.cyyber.";

/// A name of its own for each transfer: a program that is late in the guest must not find the channel
/// of the next one.
pub fn new_name() -> String {
    format!("{PREFIX}{:08x}", rand::random::<u32>())
}

/// A channel that is plugged into a running domain.
#[derive(Debug, PartialEq, Eq)]
pub struct Plugged {
    /// Its name.
    pub name: String,
    /// The device, as libvirt needs it to unplug it: with the path of its socket.
    pub device: String,
}

/// The device; libvirt chooses the path of its socket if there is none.
pub fn device(name: &str, path: Option<&str>) -> Result<String> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer, name, path)?;
    Ok(String::from_utf8(writer.into_inner())?)
}

fn write(writer: &mut Writer<Vec<u8>>, name: &str, path: Option<&str>) -> io::Result<()> {
    let channel = writer.create_element("channel");
    let channel = channel.with_attribute(("type", "unix"));
    let channel = channel.write_inner_content(|writer| {
        if let Some(path) = path {
            let source = writer.create_element("source");
            let source = source.with_attributes([("mode", "bind"), ("path", path)]);
            source.write_empty()?;
        }
        let target = writer.create_element("target");
        let target = target.with_attributes([("type", "virtio"), ("name", name)]);
        target.write_empty().map(drop)
    });
    channel.map(drop)
}

/// The name of the channel in the definition `xml`, and the path of its socket.
fn found(xml: &str) -> Result<Option<(String, Option<String>)>> {
    let mut channels = parse(xml)?.devices.channels.into_iter();
    Ok(channels.find_map(|channel| {
        let name = channel.target.name.filter(|it| it.starts_with(PREFIX))?;
        Some((name, channel.source.and_then(|source| source.path)))
    }))
}

/// The channel in the definition `xml` of a running domain.
pub fn plugged(xml: &str) -> Result<Option<Plugged>> {
    let Some((name, path)) = found(xml)? else {
        return Ok(None);
    };
    let device = device(&name, path.as_deref())?;
    Ok(Some(Plugged { name, device }))
}

/// The definition `xml` with the channel if it was plugged in when memory was `saved`: memory is only
/// restored into the devices that it was saved with.
pub fn as_saved(xml: String, saved: &str) -> Result<String> {
    let Some((name, _)) = found(saved)? else {
        return Ok(xml);
    };
    let place = ["domain", "devices"];
    put_child(&xml, &place, |_| false, |writer| write(writer, &name, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_with_its_path() {
        let domain = |channel: &str| {
            format!(
                "<domain><devices><channel type='unix'>\
                 <source mode='bind' path='/run/agent'/>\
                 <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>\
                 </channel>{channel}</devices></domain>"
            )
        };
        assert_eq!(plugged(&domain("")).unwrap(), None);
        let ours = "<channel type='unix'><source mode='bind' path='/run/1-a&amp;b/files'/>\
                    <target type='virtio' name='org.cyyber.0a' state='disconnected'/>\
                    <alias name='channel1'/></channel>";
        let found = plugged(&domain(ours)).unwrap().unwrap();
        assert_eq!(found.name, "org.cyyber.0a");
        let expected = r#"<channel type="unix"><source mode="bind" path="/run/1-a&amp;b/files"/>"#;
        assert!(found.device.starts_with(expected), "{found:?}");
        let (with, without) = (domain(ours), domain(""));
        assert_eq!(as_saved(without.clone(), &without).unwrap(), without);
        let restored = as_saved(without, &with).unwrap();
        assert_eq!(restored, domain(&device("org.cyyber.0a", None).unwrap()));
    }
}
