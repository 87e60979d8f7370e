//! Changes parts of a definition without interpreting the rest.

use std::io;

use anyhow::{Context, Result};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};

/// The definition `xml` in which each element at `path` ends with what `add` writes; its children
/// for which `replaced` is true are removed.
pub(super) fn put_child(
    xml: &str,
    path: &[&str],
    replaced: impl Fn(&BytesStart) -> bool,
    add: impl Fn(&mut Writer<Vec<u8>>) -> io::Result<()>,
) -> Result<String> {
    let failed = "failed to parse the domain's definition";
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let mut open: Vec<String> = Vec::new();
    loop {
        let event = reader.read_event().context(failed)?;
        match &event {
            Event::Eof => break,
            Event::Start(tag) if open == path && replaced(tag) => {
                let end = tag.to_end().into_owned();
                reader.read_to_end(end.name()).context(failed)?;
                continue;
            }
            Event::Empty(tag) if open == path && replaced(tag) => continue,
            Event::Start(tag) => open.push(tag.name().as_ref().to_owned()),
            Event::End(_) => {
                if open == path {
                    add(&mut writer)?;
                }
                open.pop();
            }
            _ => {}
        }
        writer.write_event(event)?;
    }
    String::from_utf8(writer.into_inner()).context(failed)
}

/// The definition `xml` without the first child of the element at `path` that is `wanted`, and that
/// child; `None` if there is none.
pub(super) fn take_child(
    xml: &str,
    path: &[&str],
    wanted: impl Fn(&BytesStart) -> bool,
) -> Result<Option<(String, String)>> {
    let failed = "failed to parse the domain's definition";
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<String> = Vec::new();
    loop {
        let from = reader.buffer_position();
        match reader.read_event().context(failed)? {
            Event::Eof => return Ok(None),
            Event::Start(tag) if open == path && wanted(&tag) => {
                let end = tag.to_end().into_owned();
                reader.read_to_end(end.name()).context(failed)?;
                let place = usize::try_from(from)?..usize::try_from(reader.buffer_position())?;
                let child = xml.get(place.clone()).context(failed)?.to_owned();
                let mut without = xml.to_owned();
                without.replace_range(place, "");
                return Ok(Some((without, child)));
            }
            Event::Start(tag) => open.push(tag.name().as_ref().to_owned()),
            Event::End(_) => drop(open.pop()),
            _ => {}
        }
    }
}
