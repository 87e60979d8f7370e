//! The channel through which files go into a guest and out of it.

use std::io;

use anyhow::Result;
use quick_xml::Writer;

use super::edit::put_child;
use super::parse::parse;

/// What all names begin with, in the guest as well.
const PREFIX: &str = "org.cyyber.";

/// A name of its own for each transfer: a program that is late in the guest must not find the channel
/// of the next one.
pub fn new_name() -> String {
    format!("{PREFIX}{:08x}", rand::random::<u32>())
}

/// The device, for libvirt to plug it in or to unplug it: QEMU connects to the socket at `path`;
/// without one, nobody is at the other end.
pub fn device(name: &str, path: Option<&str>) -> Result<String> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer, name, path)?;
    Ok(String::from_utf8(writer.into_inner())?)
}

fn write(writer: &mut Writer<Vec<u8>>, name: &str, path: Option<&str>) -> io::Result<()> {
    let channel = writer.create_element("channel");
    let channel = channel.with_attribute(("type", if path.is_some() { "unix" } else { "null" }));
    let channel = channel.write_inner_content(|writer| {
        if let Some(path) = path {
            let source = writer.create_element("source");
            let source = source.with_attributes([("mode", "connect"), ("path", path)]);
            source.write_empty()?;
        }
        let target = writer.create_element("target");
        let target = target.with_attributes([("type", "virtio"), ("name", name)]);
        target.write_empty().map(drop)
    });
    channel.map(drop)
}

/// The names of the channels in the definition `xml`, and the paths of their sockets.
fn found(xml: &str) -> Result<impl Iterator<Item = (String, Option<String>)>> {
    let channels = parse(xml)?.devices.channels.into_iter();
    Ok(channels.filter_map(|channel| {
        let name = channel.target.name.filter(|it| it.starts_with(PREFIX))?;
        Some((name, channel.source.and_then(|source| source.path)))
    }))
}

/// The channels in the definition `xml` of a running domain, as devices.
pub fn plugged(xml: &str) -> Result<Vec<String>> {
    found(xml)?
        .map(|(name, path)| device(&name, path.as_deref()))
        .collect()
}

/// The definition `xml` with the channels that were plugged in when memory was `saved`: memory is only
/// restored into the devices that it was saved with. Nobody is at the other end any more.
pub fn as_saved(xml: String, saved: &str) -> Result<String> {
    let place = ["domain", "devices"];
    found(saved)?.try_fold(xml, |xml, (name, _)| {
        put_child(&xml, &place, |_| false, |writer| write(writer, &name, None))
    })
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
        assert!(plugged(&domain("")).unwrap().is_empty());
        let ours = "<channel type='unix'><source mode='connect' path='/run/1-a&amp;b/files'/>\
                    <target type='virtio' name='org.cyyber.0a' state='disconnected'/>\
                    <alias name='channel1'/></channel>";
        assert_eq!(
            plugged(&domain(ours)).unwrap(),
            [
                r#"<channel type="unix"><source mode="connect" path="/run/1-a&amp;b/files"/><target type="virtio" name="org.cyyber.0a"/></channel>"#
            ]
        );
        let (with, without) = (domain(ours), domain(""));
        assert_eq!(as_saved(without.clone(), &without).unwrap(), without);
        let restored = as_saved(without, &with).unwrap();
        let null = r#"<channel type="null"><target type="virtio" name="org.cyyber.0a"/></channel>"#;
        assert_eq!(restored, domain(null));
        assert_eq!(plugged(&restored).unwrap(), [null]);
    }
}
