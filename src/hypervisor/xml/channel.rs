//! The channel through which files go into a guest and out of it.

use std::io;

use anyhow::Result;
use quick_xml::Writer;

use super::edit::put_child;
use super::parse::{ChannelXml, parse};

/// Its name, in the guest as well.
pub const NAME: &str = "org.cyyber.files.0";

/// The device; libvirt chooses the path of its socket if there is none.
pub fn device(path: Option<&str>) -> Result<String> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer, path)?;
    Ok(String::from_utf8(writer.into_inner())?)
}

fn write(writer: &mut Writer<Vec<u8>>, path: Option<&str>) -> io::Result<()> {
    let channel = writer.create_element("channel");
    let channel = channel.with_attribute(("type", "unix"));
    let channel = channel.write_inner_content(|writer| {
        if let Some(path) = path {
            let source = writer.create_element("source");
            let source = source.with_attributes([("mode", "bind"), ("path", path)]);
            source.write_empty()?;
        }
        let target = writer.create_element("target");
        let target = target.with_attributes([("type", "virtio"), ("name", NAME)]);
        target.write_empty().map(drop)
    });
    channel.map(drop)
}

fn found(xml: &str) -> Result<Option<ChannelXml>> {
    let mut channels = parse(xml)?.devices.channels.into_iter();
    Ok(channels.find(|channel| channel.target.name.as_deref() == Some(NAME)))
}

/// The device in the definition `xml` of a running domain, as libvirt needs it to unplug it: with the
/// path of its socket. `None` if it is not plugged in.
pub fn plugged(xml: &str) -> Result<Option<String>> {
    let path = found(xml)?.and_then(|channel| channel.source?.path);
    path.map(|path| device(Some(&path))).transpose()
}

/// The definition `xml` with the channel if it was plugged in when memory was `saved`: memory is only
/// restored into the devices that it was saved with.
pub fn as_saved(xml: String, saved: &str) -> Result<String> {
    if found(saved)?.is_none() {
        return Ok(xml);
    }
    put_child(
        &xml,
        &["domain", "devices"],
        |_| false,
        |writer| write(writer, None),
    )
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
                    <target type='virtio' name='org.cyyber.files.0' state='disconnected'/>\
                    <alias name='channel1'/></channel>";
        let found = plugged(&domain(ours)).unwrap().unwrap();
        let expected = r#"<channel type="unix"><source mode="bind" path="/run/1-a&amp;b/files"/>"#;
        assert!(found.starts_with(expected), "{found}");
        let (with, without) = (domain(ours), domain(""));
        assert_eq!(as_saved(without.clone(), &without).unwrap(), without);
        let restored = as_saved(without, &with).unwrap();
        let expected = domain(&device(None).unwrap());
        assert_eq!(restored, expected);
    }
}
