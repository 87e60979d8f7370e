//! The environment, read here and nowhere else. An empty variable counts as unset.

use std::env::var_os;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::config::AcceleratorChoice;
use crate::error::{Fault, Kind};
use crate::output::Format;

/// What the environment overrides of the configuration; options override it in turn.
#[derive(Debug, Default)]
pub struct Overrides {
    /// `CYYBER_CONFIG`
    pub config: Option<PathBuf>,
    /// `CYYBER_CONNECT`
    pub connect: Option<String>,
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
    /// Reads the environment.
    pub fn read() -> Result<Overrides> {
        Ok(Overrides {
            config: set("CYYBER_CONFIG").map(PathBuf::from),
            connect: set("CYYBER_CONNECT").map(|uri| uri.to_string_lossy().into_owned()),
            storage_dir: set("CYYBER_STORAGE_DIR").map(PathBuf::from),
            state_dir: set("CYYBER_STATE_DIR").map(PathBuf::from),
            output_dir: set("CYYBER_OUTPUT_DIR").map(PathBuf::from),
            accelerator: choice("CYYBER_ACCELERATOR")?,
        })
    }
}

/// `CYYBER_OUTPUT`, which is needed before anything else, for errors.
pub fn output() -> Result<Option<Format>> {
    choice("CYYBER_OUTPUT")
}

fn set(name: &str) -> Option<OsString> {
    var_os(name).filter(|value| !value.is_empty())
}

/// A variable that has one of few values.
fn choice<T: ValueEnum>(name: &str) -> Result<Option<T>> {
    let Some(value) = set(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    T::from_str(&value, false).map(Some).map_err(|_| {
        let allowed: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        let message = format!(
            "bad {name} '{}': allowed is {}",
            value.escape_debug(),
            allowed.join(" or ")
        );
        Fault::new(Kind::Usage, message).into()
    })
}
