//! The environment, read here and nowhere else. An empty variable counts as unset, except for
//! `CYYBER_AS_USER`: a restriction is never lifted by mistake.

use std::env::var_os;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::ValueEnum;
use jiff::tz::TimeZone;

use crate::config::{AcceleratorChoice, ConnectUri};
use crate::error::{Fault, Kind};
use crate::files::trust::Trust;
use crate::names::UserId;

/// Overrides of the configuration from the environment; options override these.
#[derive(Debug)]
pub struct Overrides {
    /// `CYYBER_CONFIG`
    pub config: Option<PathBuf>,
    /// `CYYBER_CONNECT`
    pub connect: Option<ConnectUri>,
    /// `CYYBER_STORAGE_DIR`
    pub storage_dir: Option<PathBuf>,
    /// `CYYBER_STATE_DIR`
    pub state_dir: Option<PathBuf>,
    /// `CYYBER_OUTPUT_DIR`
    pub output_dir: Option<PathBuf>,
    /// `CYYBER_ACCELERATOR`
    pub accelerator: Option<AcceleratorChoice>,
    /// The trusted authors of configurations, including the user behind `sudo`.
    pub trust: Trust,
    /// `CYYBER_AS_USER`
    pub as_user: Option<UserId>,
}

impl Overrides {
    /// Reads the environment.
    pub fn read() -> Result<Overrides> {
        Ok(Overrides {
            config: set("CYYBER_CONFIG").map(PathBuf::from),
            connect: parsed("CYYBER_CONNECT", set("CYYBER_CONNECT"))?,
            storage_dir: set("CYYBER_STORAGE_DIR").map(PathBuf::from),
            state_dir: set("CYYBER_STATE_DIR").map(PathBuf::from),
            output_dir: set("CYYBER_OUTPUT_DIR").map(PathBuf::from),
            accelerator: choice("CYYBER_ACCELERATOR")?,
            trust: Trust::new(set("SUDO_UID").and_then(|user| user.to_str()?.parse().ok())),
            // An empty value means a session without a user, and must not permit everything.
            as_user: parsed("CYYBER_AS_USER", var_os("CYYBER_AS_USER"))
                .map_err(|fault| fault.hint("unset it to act for everyone"))?,
        })
    }
}

/// `CYYBER_OUTPUT`, which is needed first, for errors.
pub fn output<T: ValueEnum>() -> Result<Option<T>> {
    choice("CYYBER_OUTPUT")
}

/// This host's time zone, or that of `TZ`. An unknown one is an error, because it would be taken
/// for UTC.
pub fn time_zone() -> Result<TimeZone> {
    let Some(name) = set("TZ") else {
        return Ok(TimeZone::system());
    };
    let name = name.to_string_lossy();
    // A path, which tzset(3) allows as well, is left to the system.
    let known = match name.trim_start_matches(':') {
        path if path.starts_with('/') => Ok(TimeZone::system()),
        name => TimeZone::get(name).or_else(|_| TimeZone::posix(name)),
    };
    known.map_err(|_| {
        let message = format!("TZ is not a known time zone: '{}'", name.escape_debug());
        Fault::new(Kind::Usage, message)
            .hint("correct it, install tzdata, or give the time in UTC, as in 2027-01-31T18:00:00Z")
            .into()
    })
}

/// The parsed value of a variable.
fn parsed<T: FromStr<Err: Display>>(
    name: &str,
    value: Option<OsString>,
) -> Result<Option<T>, Fault> {
    let value = value.map(|value| value.to_string_lossy().parse());
    value
        .transpose()
        .map_err(|error| Fault::new(Kind::Usage, format!("bad {name}: {error}")))
}

/// Whether output at a terminal may have colours: not disabled, and supported by the terminal.
pub fn allows_colour() -> bool {
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// The index of the word that a shell asks to complete, if given.
pub fn completed_word() -> Option<usize> {
    set("_CLAP_COMPLETE_INDEX")?.to_str()?.parse().ok()
}

fn set(name: &str) -> Option<OsString> {
    var_os(name).filter(|value| !value.is_empty())
}

/// A variable with a fixed set of values.
fn choice<T: ValueEnum>(name: &str) -> Result<Option<T>> {
    let Some(value) = set(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    T::from_str(&value, false).map(Some).map_err(|_| {
        let values = T::value_variants().iter();
        let values = values.filter_map(ValueEnum::to_possible_value);
        let allowed: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
        let (value, allowed) = (value.escape_debug(), allowed.join(" or "));
        let message = format!("bad {name} '{value}': allowed is {allowed}");
        Fault::new(Kind::Usage, message).into()
    })
}
