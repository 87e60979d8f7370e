//! Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>). Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// A metric with its samples.
#[derive(Debug, Serialize, Deserialize)]
pub struct Metric {
    name: Cow<'static, str>,
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    help: Cow<'static, str>,
    samples: Vec<Sample>,
}

/// One value of a metric.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sample {
    labels: BTreeMap<Cow<'static, str>, String>,
    value: f64,
    /// The suffix of the sample's name in a histogram.
    part: Option<Cow<'static, str>>,
}

impl Metric {
    /// A metric without samples. The name of a counter ends with `_total`, as is the convention of
    /// the format.
    pub fn new(name: &'static str, help: &'static str) -> Metric {
        let counts = name.ends_with("_total");
        Metric {
            name: name.into(),
            kind: if counts { "counter" } else { "gauge" }.into(),
            help: help.into(),
            samples: Vec::new(),
        }
    }

    /// A histogram without samples.
    pub fn histogram(name: &'static str, help: &'static str) -> Metric {
        Metric {
            kind: "histogram".into(),
            ..Metric::new(name, help)
        }
    }

    /// Adds observations to a histogram: the cumulative count for each bound, the total count, and
    /// the sum.
    pub fn observe(
        &mut self,
        label: (&'static str, &str),
        buckets: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let bounds = buckets
            .iter()
            .map(|(bound, count)| (bound.to_string(), *count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), count)]) {
            self.put(Some("_bucket"), [label, ("le", &bound)], whole(count));
        }
        self.put(Some("_sum"), [label], sum);
        self.put(Some("_count"), [label], whole(count));
    }

    /// Adds a sample, if its value is known.
    #[must_use]
    pub fn with(mut self, value: impl Into<Option<f64>>) -> Metric {
        if let Some(value) = value.into() {
            self.add([], value);
        }
        self
    }

    /// Adds a sample.
    pub fn add<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'static str, &'a str)>,
        value: f64,
    ) {
        self.put(None, labels, value);
    }

    fn put<'a>(
        &mut self,
        part: Option<&'static str>,
        labels: impl IntoIterator<Item = (&'static str, &'a str)>,
        value: f64,
    ) {
        let labels = labels
            .into_iter()
            .map(|(name, value)| (name.into(), value.to_owned()));
        self.samples.push(Sample {
            part: part.map(Cow::from),
            labels: labels.collect(),
            value,
        });
    }

    /// Adds the samples of the same metric from the host `host`, labelled with the host.
    pub fn take_from(&mut self, host: &str, other: Metric) {
        self.samples
            .extend(other.samples.into_iter().map(|mut sample| {
                sample.labels.insert("host".into(), host.to_owned());
                sample
            }));
    }

    /// The same metric without samples.
    pub fn bare(&self) -> Metric {
        Metric {
            name: self.name.clone(),
            kind: self.kind.clone(),
            help: self.help.clone(),
            samples: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many samples it has.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }
}

/// The metrics as text, without a newline at its end. Those without samples are left out.
pub fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics.iter().filter(|metric| !metric.samples.is_empty()) {
        let (name, kind, help) = (&metric.name, &metric.kind, escape(&metric.help, false));
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for Sample {
            part,
            labels,
            value,
        } in &metric.samples
        {
            let (labels, part) = (labels.iter(), part.as_deref().unwrap_or_default());
            let labels = labels.map(|(name, it)| format!("{name}=\"{}\"", escape(it, true)));
            let labels: Vec<_> = labels.collect();
            let _ = match &*labels.join(",") {
                "" => writeln!(text, "{name}{part} {value}"),
                labels => writeln!(text, "{name}{part}{{{labels}}} {value}"),
            };
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Prometheus uses floating point; numbers above 2^53 lose their last digits.
#[expect(clippy::cast_precision_loss, reason = "all that the format can hold")]
pub fn whole(count: u64) -> f64 {
    count as f64
}

fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes {
        text.replace('"', "\\\"")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_its_buckets_its_sum_and_its_count() {
        let mut metric = Metric::histogram("wait_seconds", "How long.");
        metric.observe(("lab", "a"), &[(0.5, 1), (2.0, 3)], 4, 9.25);
        assert_eq!(
            text(&[metric]),
            "# HELP wait_seconds How long.\n# TYPE wait_seconds histogram\n\
             wait_seconds_bucket{lab=\"a\",le=\"0.5\"} 1\n\
             wait_seconds_bucket{lab=\"a\",le=\"2\"} 3\n\
             wait_seconds_bucket{lab=\"a\",le=\"+Inf\"} 4\n\
             wait_seconds_sum{lab=\"a\"} 9.25\nwait_seconds_count{lab=\"a\"} 4"
        );
    }

    #[test]
    fn what_is_written_is_the_format() {
        let mut states = Metric::new("instances", "By \"state\",\nand \\.");
        states.add([("state", "idle")], 3.0);
        states.add([("state", "a\"b\\c\nd"), ("lab", "é")], 0.5);
        let metrics = [
            states,
            Metric::new("nothing", "Has no samples."),
            Metric::new("cpu_seconds_total", "Time.").with(123_456_789_012.25),
        ];
        assert_eq!(
            text(&metrics),
            "# HELP instances By \"state\",\\nand \\\\.\n# TYPE instances gauge\n\
             instances{state=\"idle\"} 3\ninstances{lab=\"é\",state=\"a\\\"b\\\\c\\nd\"} 0.5\n\
             # HELP cpu_seconds_total Time.\n# TYPE cpu_seconds_total counter\n\
             cpu_seconds_total 123456789012.25"
        );
    }
}
