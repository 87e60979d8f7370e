//! The types that domain definitions are parsed into.

use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::network::Mac;

pub(super) fn parse(xml: &str) -> Result<DomainXml> {
    quick_xml::de::from_str(xml).context("failed to parse the domain's definition")
}

/// Our facts in a domain's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Origin {
    /// The base build that it was created from.
    #[serde(rename = "@build")]
    pub build: String,
    /// When it was created.
    #[serde(rename = "@created")]
    pub created: Timestamp,
}

/// A security label of a domain.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct SecurityLabel {
    /// The security model, such as `dac`.
    #[serde(rename = "@model")]
    pub model: Option<String>,
    /// The label, such as `+64055:+64055`.
    pub label: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DomainXml {
    pub uuid: Option<Uuid>,
    #[serde(rename = "genid")]
    pub generation: Option<String>,
    pub metadata: Option<MetadataXml>,
    pub devices: DevicesXml,
    #[serde(default, rename = "seclabel")]
    pub labels: Vec<SecurityLabel>,
}

#[derive(Deserialize)]
pub(super) struct MetadataXml {
    pub instance: Option<Origin>,
}

#[derive(Deserialize)]
pub(super) struct DevicesXml {
    #[serde(default)]
    pub graphics: Vec<GraphicsXml>,
    #[serde(default, rename = "disk")]
    pub disks: Vec<ImageXml>,
    #[serde(default, rename = "interface")]
    pub interfaces: Vec<InterfaceXml>,
    #[serde(default, rename = "channel")]
    pub channels: Vec<ChannelXml>,
}

/// A disk, or a backing file of one.
#[derive(Deserialize)]
pub(super) struct ImageXml {
    pub source: Option<SourceXml>,
    #[serde(rename = "backingStore")]
    pub below: Option<Box<ImageXml>>,
    pub target: Option<TargetXml>,
}

#[derive(Deserialize)]
pub(super) struct TargetXml {
    #[serde(rename = "@dev")]
    pub device: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SourceXml {
    #[serde(rename = "@file")]
    pub file: Option<PathBuf>,
    #[serde(rename = "@network")]
    pub network: Option<String>,
    #[serde(rename = "@path")]
    pub path: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ChannelXml {
    pub source: Option<SourceXml>,
    pub target: ChannelTargetXml,
}

#[derive(Deserialize)]
pub(super) struct ChannelTargetXml {
    #[serde(rename = "@name")]
    pub name: Option<String>,
}

impl ImageXml {
    /// Its own file, then its backing files.
    pub fn files(self) -> Vec<PathBuf> {
        let own = self.source.and_then(|source| source.file);
        let below = self.below.into_iter().flat_map(|below| below.files());
        own.into_iter().chain(below).collect()
    }
}

#[derive(Deserialize)]
pub(super) struct GraphicsXml {
    #[serde(rename = "@type")]
    pub kind: String,
    #[serde(rename = "@port")]
    pub port: Option<i32>,
    #[serde(rename = "@websocket")]
    pub websocket: Option<i32>,
    #[serde(rename = "@listen")]
    pub listen: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct InterfaceXml {
    pub mac: Option<AddressXml>,
    pub source: Option<SourceXml>,
    pub filterref: Option<FilterXml>,
    pub target: Option<TargetXml>,
}

#[derive(Deserialize)]
pub(super) struct AddressXml {
    #[serde(rename = "@address")]
    pub address: Mac,
}

#[derive(Deserialize)]
pub(super) struct FilterXml {}
