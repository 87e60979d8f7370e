//! The environment, read here and nowhere else (clap reads what doubles as an option).

use std::env::var_os;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::config::AcceleratorChoice;
use crate::error::{Fault, Kind};

/// What the environment overrides of the configuration.
#[derive(Debug, Default)]
pub struct Overrides {
    /// `CYYBER_STORAGE_DIR`
    pub storage_dir: Option<PathBuf>,
    /// `CYYBER_STATE_DIR`
    pub state_dir: Option<PathBuf>,
    /// `CYYBER_OUTPUT_DIR`
    pub output_dir: Option<PathBuf>,
    /// `CYYBER_ACCELERATOR`
    pub accelerator: Option<AcceleratorChoice>,
}

impl Overrides {
    /// Reads the environment. An empty variable counts as unset.
    pub fn read() -> Result<Overrides> {
        let accelerator = set("CYYBER_ACCELERATOR")
            .map(|value| {
                AcceleratorChoice::from_str(&value.to_string_lossy(), false).map_err(|_| {
                    Fault::new(
                        Kind::Usage,
                        "bad CYYBER_ACCELERATOR: allowed is auto, kvm or tcg",
                    )
                })
            })
            .transpose()?;
        Ok(Overrides {
            storage_dir: set("CYYBER_STORAGE_DIR").map(PathBuf::from),
            state_dir: set("CYYBER_STATE_DIR").map(PathBuf::from),
            output_dir: set("CYYBER_OUTPUT_DIR").map(PathBuf::from),
            accelerator,
        })
    }
}

fn set(name: &str) -> Option<std::ffi::OsString> {
    var_os(name).filter(|value| !value.is_empty())
}

/// Whether `CYYBER_OUTPUT` asks for JSON, for errors that come up before the options are known.
pub fn wants_json() -> bool {
    set("CYYBER_OUTPUT").is_some_and(|value| value == "json")
}
