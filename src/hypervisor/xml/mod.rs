//! libvirt's XML: parsed into types, written by a template or an XML writer, and changed element by
//! element. It is never joined or searched as text. No I/O.

pub mod capabilities;
pub mod channel;
pub mod domain;
mod edit;
pub mod interface;
pub mod network;
mod parse;
