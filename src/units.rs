//! Sizes and durations as people write them: `20G`, `10m`, `never`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::checked::checked;

/// Bytes in one MiB. Every figure named `_mb` in the JSON counts these.
pub const MIB: u64 = 1 << 20;

/// A number of bytes, written with a binary unit: `512M`, `20G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct ByteSize(pub u64);

checked!(
    impl ByteSize,
    "size",
    "[0-9]{1,19}[KMGT]",
    "write a number and K, M, G or T, as in \"20G\"",
    |text| {
        let units = [
            ("K", 1 << 10),
            ("M", 1 << 20),
            ("G", 1 << 30),
            ("T", 1 << 40),
        ];
        in_units(text, &units).map(ByteSize)
    }
);

/// Parses `20G` with the factor of each unit.
fn in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut units = units.iter();
    units.find_map(|(unit, worth)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*worth)
    })
}

impl fmt::Display for ByteSize {
    /// The largest unit that keeps the number whole, as it would be written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// The longest duration, in seconds: ten thousand days, which can be added to any time.
const LONGEST: i64 = 86_400 * 10_000;

/// A duration, written `90s`, `10m`, `24h` or `7d`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct Duration(#[schemars(with = "String")] pub SignedDuration);

checked!(
    impl Duration,
    "duration",
    "[0-9]{1,19}[smhd]",
    "write it as 90s, 10m, 24h or 7d",
    |text| {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
        let seconds = i64::try_from(in_units(text, &units)?).ok();
        let seconds = seconds.filter(|seconds| *seconds <= LONGEST)?;
        Some(Duration(SignedDuration::from_secs(seconds)))
    }
);

impl fmt::Display for Duration {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs())
    }
}

impl Duration {
    /// The same length for the standard library's timers.
    pub fn std(self) -> std::time::Duration {
        self.0.unsigned_abs()
    }
}

/// A number of seconds between two refreshes, from 1 to 3600.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(u16);

impl FromStr for Interval {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            Ok(seconds @ 1..=3600) => Ok(Interval(seconds)),
            _ => Err("expected whole seconds from 1 to 3600".to_owned()),
        }
    }
}

impl Interval {
    /// The same length for the standard library's timers.
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0.into())
    }
}

/// The end of an exemption: a time, a duration from now, or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until this local time.
    Local(civil::DateTime),
    /// Until then.
    At(Timestamp),
    /// For this long.
    For(Duration),
    /// It ends.
    Off,
}

impl FromStr for Until {
    type Err = String;

    /// A date means the end of that day.
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "off" {
            return Ok(Until::Off);
        }
        if let Ok(length) = s.parse() {
            return Ok(Until::For(length));
        }
        if let Ok(at) = s.parse() {
            return Ok(Until::At(at));
        }
        match s.parse::<civil::Date>() {
            Ok(day) if !s.contains([' ', 'T', ':']) => Ok(Until::Local(day.at(23, 59, 59, 0))),
            _ => s.parse().map(Until::Local).map_err(|_| {
                let example = "2h, 3d, 2027-01-31, 2027-01-31T18:00 or 2027-01-31T18:00:00Z";
                format!(
                    "bad time '{}': write it as {example}, or off",
                    s.escape_debug()
                )
            }),
        }
    }
}

/// The time `local` in `zone`; if it occurs twice, the later one.
///
/// # Errors
///
/// It is later than the latest possible time.
pub fn latest(local: civil::DateTime, zone: &TimeZone) -> Result<Timestamp, String> {
    let at = zone.to_ambiguous_timestamp(local).later();
    at.map_err(|_| format!("{local} is too late: the last day is 9999-12-30"))
}

/// When a step of the idle policy is due: after a duration, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub enum Patience {
    /// The step is taken after this long.
    After(Duration),
    /// The step is not taken at all.
    Never,
}

checked!(
    impl Patience,
    "duration",
    "([0-9]{1,19}[smhd]|never)",
    "write it as 90s, 10m, 24h or 7d, or never",
    |text| match text {
        "never" => Some(Patience::Never),
        _ => text.parse().ok().map(Patience::After),
    }
);

/// An address with a port: an IPv6 address is written in brackets.
pub fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A size in short: `712 MiB`, `1.5 GiB`, `23 GiB`.
pub fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    // In tenths, rounded; these numbers are far from where a float loses any.
    let tenths = (bytes as f64 / (1_u64 << shift) as f64 * 10.0).round() / 10.0;
    let digits = usize::from(tenths < 10.0 && shift >= 30);
    format!("{tenths:.digits$} {unit}")
}

/// A duration in short, in its one or two largest units: `3m`, `2h 5m`, `4d`.
pub fn age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m"),
        (0, h, 0) => format!("{h}h"),
        (0, h, m) => format!("{h}h {m}m"),
        (d, 0, _) => format!("{d}d"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("20G".parse(), Ok(ByteSize(20 << 30)));
        assert_eq!(ByteSize(20 << 30).to_string(), "20G");
        assert_eq!(ByteSize(1536 << 20).to_string(), "1536M");
        for bad in [
            "",
            "20",
            "G",
            "-1G",
            "1.5G",
            "20g",
            "99999999999999999999G",
            "18014398509481984K",
            "20GB",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("24h", 86_400),
            ("7d", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap().0.as_secs(),
                seconds,
                "{text}"
            );
        }
        for bad in [
            "",
            "10",
            "ten minutes",
            "-5m",
            "5 m ago",
            "PT5M",
            "5 minutes",
            "1mo",
            "never",
            "99999999999999d",
        ] {
            assert!(bad.parse::<Duration>().is_err(), "{bad:?}");
        }
        assert_eq!("never".parse(), Ok(Patience::Never));
    }

    #[test]
    fn intervals() {
        assert_eq!("3600".parse(), Ok(Interval(3600)));
        for bad in ["", "0", "3601", "-1", "1.5", "2s", "lab01"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_that_comes_twice_is_the_later_one() {
        let zone = |rule| TimeZone::posix(rule).unwrap();
        let at = |s: &str| Ok(s.parse::<Timestamp>().unwrap());
        // In Havana a Sunday's first hour comes twice, in Beirut a Saturday's last one.
        let havana = zone("CST5CDT,M3.2.0/0,M11.1.0/1");
        let midnight = civil::date(2027, 11, 7).at(0, 30, 0, 0);
        assert_eq!(latest(midnight, &havana), at("2027-11-07T05:30:00Z"));
        let end = civil::date(2027, 10, 30).at(23, 59, 59, 0);
        let beirut = zone("EET-2EEST,M3.5.0/0,M10.5.0/0");
        assert_eq!(latest(end, &beirut), at("2027-10-30T21:59:59Z"));
        // One that is left out is as long after the hour before.
        let skipped = civil::date(2027, 3, 28).at(2, 30, 0, 0);
        let berlin = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(latest(skipped, &berlin), at("2027-03-28T01:30:00Z"));
        let last = civil::date(9999, 12, 31).at(23, 59, 59, 0);
        let late = latest(last, &havana).unwrap_err();
        assert!(late.contains("is too late"), "{late}");
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(endpoint("127.0.0.1", 5900), "127.0.0.1:5900");
        assert_eq!(endpoint("::1", 5900), "[::1]:5900");
    }

    #[test]
    fn ends() {
        let parse = |s: &str| s.parse::<Until>();
        assert_eq!(parse("off"), Ok(Until::Off));
        assert_eq!(parse("2h"), Ok(Until::For("2h".parse().unwrap())));
        let at = |s: &str| Ok(Until::At(s.parse().unwrap()));
        assert_eq!(parse("2027-01-31T18:00:00Z"), at("2027-01-31T18:00:00Z"));
        assert_eq!(
            parse("2027-01-31T18:00:00+02:00"),
            at("2027-01-31T16:00:00Z")
        );
        let local = |y, m, d, hour, minute, second| {
            Ok(Until::Local(
                civil::date(y, m, d).at(hour, minute, second, 0),
            ))
        };
        assert_eq!(parse("2027-01-31T18:00"), local(2027, 1, 31, 18, 0, 0));
        assert_eq!(parse("2027-01-31 18:00"), local(2027, 1, 31, 18, 0, 0));
        assert_eq!(parse("2027-01-31"), local(2027, 1, 31, 23, 59, 59));
        for bad in [
            "",
            "on",
            "never",
            "tomorrow",
            "18:00",
            "2027-13-01",
            "-2h",
            "1800000000",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (196 << 10, "196 KiB"),
            (712 << 20, "712 MiB"),
            (1536 << 20, "1.5 GiB"),
            (2 << 30, "2.0 GiB"),
            ((23 << 30) + (700 << 20), "24 GiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (-5, "0s"),
            (59, "59s"),
            (61, "1m"),
            (3600, "1h"),
            (7500, "2h 5m"),
            (356_400, "4d 3h"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), text);
        }
    }
}
