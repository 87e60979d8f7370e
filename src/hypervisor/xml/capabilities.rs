//! The capabilities of libvirt.

use anyhow::{Context, Result};
use serde::Deserialize;

/// A security model with which libvirt confines QEMU.
#[derive(Deserialize)]
pub struct SecurityModel {
    /// Its name, as `dac`.
    pub model: String,
    /// The default label of a QEMU.
    #[serde(default, rename = "baselabel")]
    pub labels: Vec<String>,
}

/// The security models in `capabilities`.
pub fn security_models(capabilities: &str) -> Result<Vec<SecurityModel>> {
    #[derive(Deserialize)]
    struct Capabilities {
        host: HostXml,
    }
    #[derive(Deserialize)]
    struct HostXml {
        #[serde(default, rename = "secmodel")]
        models: Vec<SecurityModel>,
    }
    let capabilities: Capabilities = quick_xml::de::from_str(capabilities)
        .context("failed to parse the capabilities of libvirt")?;
    Ok(capabilities.host.models)
}
