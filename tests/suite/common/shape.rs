//! The contract's JSON objects: which fields they have, and of what type.

use serde_json::Value;

/// What a field may be. All but `Text`, `Flag` and `State` may be null, for "unknown" or "none".
#[derive(Debug, Clone, Copy)]
pub enum Type {
    Text,
    Flag,
    State,
    MaybeText,
    MaybeFlag,
    MaybePort,
    MaybeNumber,
    MaybeCount,
    MaybeTime,
}
use Type::*;

/// Fields with their types.
pub type Shape = [(&'static str, Type)];

/// An instance as `list` shows it.
pub const LISTED: &Shape = &[
    ("instance", Text),
    ("lab_id", Text),
    ("user_id", Text),
    ("state", State),
    ("started_by", MaybeText),
    ("changed", Flag),
    ("vnc_host", MaybeText),
    ("vnc_port", MaybePort),
    ("novnc_port", MaybePort),
    ("ip", MaybeText),
    ("base_image", MaybeText),
    ("base_is_current", MaybeFlag),
    ("disk_path", MaybeText),
    ("created", MaybeTime),
    ("last_activity", MaybeTime),
    ("kept_until", MaybeTime),
    ("next_step", MaybeText),
    ("next_step_at", MaybeTime),
    ("reason", MaybeText),
];

/// What a verb on one instance adds.
pub const SECRET: &Shape = &[
    ("vnc_password", MaybeText),
    ("vnc_password_expires", MaybeTime),
    ("console_path", MaybeText),
    ("console_expires", MaybeTime),
];

/// What `stats` tells of an instance.
pub const STATS: &Shape = &[
    ("instance", Text),
    ("lab_id", Text),
    ("user_id", Text),
    ("state", State),
    ("cpu_count", MaybeCount),
    ("cpu_time_ns", MaybeCount),
    ("cpu_percent", MaybeNumber),
    ("memory_mb", MaybeCount),
    ("memory_used_mb", MaybeCount),
    ("memory_guest_used_mb", MaybeCount),
    ("disk_used_mb", MaybeCount),
    ("disk_read_bytes", MaybeCount),
    ("disk_write_bytes", MaybeCount),
    ("net_rx_bytes", MaybeCount),
    ("net_tx_bytes", MaybeCount),
    ("idle_seconds", MaybeCount),
];

/// What `build` tells of a lab.
pub const BUILT: &Shape = &[
    ("lab_id", Text),
    ("result", Text),
    ("reason", MaybeText),
    ("seconds", MaybeNumber),
    ("image", MaybeText),
    ("domain_xml", MaybeText),
    ("metadata", MaybeText),
    ("log", MaybeText),
    ("stage", MaybeText),
    ("error", MaybeText),
];

/// The states of the contract.
pub const STATES: [&str; 6] = [
    "stopped", "starting", "running", "idle", "paused", "crashed",
];

/// Asserts that `object` has every field of `shape`.
#[track_caller]
pub fn assert_shape(object: &Value, shape: &Shape) {
    for (name, kind) in shape {
        let value = object
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {object:#}"));
        assert!(fits(value, *kind), "{name} is no {kind:?} in {object:#}");
    }
}

/// Asserts that each of these fields of `object` is null.
#[track_caller]
pub fn assert_null(object: &Value, names: &[&str]) {
    for name in names {
        assert_eq!(object[*name], Value::Null, "{name} in {object:#}");
    }
}

fn fits(value: &Value, kind: Type) -> bool {
    let text = value.as_str();
    match kind {
        Text => text.is_some(),
        Flag => value.is_boolean(),
        State => text.is_some_and(|text| STATES.contains(&text)),
        _ if value.is_null() => true,
        MaybeText => text.is_some(),
        MaybeFlag => value.is_boolean(),
        MaybePort => matches!(value.as_u64(), Some(1..=65535)),
        MaybeNumber => value.as_f64().is_some_and(|number| number >= 0.0),
        MaybeCount => value.is_u64(),
        MaybeTime => text.is_some_and(is_utc_time),
    }
}

fn is_utc_time(text: &str) -> bool {
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}
