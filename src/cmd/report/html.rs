//! A report as one self-contained page.

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use plotters::style::RGBColor;
use serde::Serialize;

use super::figures::{Figures, UseReport};
use super::plot::{self, Layer};
use super::table::{DAYS, seconds};
use crate::ledger::durations::{BOUNDS, Durations};
use crate::ledger::{Account, Course, Ledger, Moment};
use crate::names::State;

/// The maximum number of labs in a plot.
const MOST_LABS: usize = 12;

const GREEN: RGBColor = RGBColor(46, 158, 91);
const BLUE: RGBColor = RGBColor(70, 130, 220);

const MEMORY: [Layer; 2] = [("used", GREEN), ("freed by the idle policy", BLUE)];

const STATES: [(State, Layer); 6] = [
    (State::Starting, ("starting", RGBColor(32, 178, 170))),
    (State::Running, ("running", GREEN)),
    (State::Idle, ("idle", RGBColor(224, 161, 0))),
    (State::Paused, ("paused", BLUE)),
    (State::Stopped, ("stopped", RGBColor(150, 156, 163))),
    (State::Crashed, ("crashed", RGBColor(214, 69, 69))),
];

const TIMES: [Layer; 2] = [("resumed from a pause", BLUE), ("powered on", GREEN)];

const BUILDS: [Layer; 2] = [
    ("half of them within", GREEN),
    ("longest", RGBColor(160, 205, 180)),
];

/// A plot with its title and its legend.
#[derive(Serialize)]
struct Plot {
    title: &'static str,
    note: &'static str,
    legend: Vec<(&'static str, String)>,
    svg: String,
}

impl Plot {
    fn new(title: &'static str, note: &'static str, layers: &[Layer], svg: String) -> Plot {
        let colour = |it: &RGBColor| format!("rgb({},{},{})", it.0, it.1, it.2);
        Plot {
            title,
            note,
            legend: layers
                .iter()
                .map(|(name, it)| (*name, colour(it)))
                .collect(),
            svg,
        }
    }
}

/// The page.
pub fn page(report: &UseReport, ledger: &Ledger, zone: &TimeZone) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("seconds", seconds);
    environment.add_template("report", include_str!("../../../templates/report.html"))?;
    let shown = |at| local(at, zone, "%a %d %b %Y, %H:%M");
    let plots = plots(report, ledger, zone)?;
    let page = environment.get_template("report")?.render(context! {
        report => Value::from(Serde(report)),
        freed => report.total.freed(),
        since => shown(report.since),
        until => shown(report.until),
        plots => Value::from(Serde(plots)),
        version => env!("CARGO_PKG_VERSION"),
    })?;
    Ok(page)
}

fn plots(report: &UseReport, ledger: &Ledger, zone: &TimeZone) -> Result<Vec<Plot>> {
    let total = ledger.total();
    let mut plots = Vec::new();
    if let Some(course) = &ledger.course {
        let states = STATES.map(|(_, layer)| layer);
        let ms = course.step.as_millis_f64();
        let memory =
            |moment: &Moment| [moment.used, moment.freed].map(|it| it as f64 / ms / 1024.0);
        let count = |moment: &Moment| {
            STATES.map(|(state, _)| moment.ms.get(&state).copied().unwrap_or(0) as f64 / ms)
        };
        plots.push(Plot::new(
            "Memory in use",
            "Memory of running instances, and of those that would run without the idle policy.",
            &MEMORY,
            in_time(
                course,
                zone,
                |moment| memory(moment).to_vec(),
                &MEMORY,
                "GiB",
            )?,
        ));
        plots.push(Plot::new(
            "Instances by state",
            "",
            &states,
            in_time(course, zone, |moment| count(moment).to_vec(), &states, "")?,
        ));
    }
    plots.push(Plot::new(
        "Hours of use by weekday and hour",
        "Darker fields mean more instances in use.",
        &[],
        plot::week(&report.total.hours_of_week, GREEN, DAYS)?,
    ));
    plots.push(Plot::new(
        "How long students waited",
        "Starts and resumes by duration.",
        &TIMES,
        plot::bars(&waits(&total), &TIMES, "")?,
    ));
    let labs = |row: fn(&Figures) -> Option<Vec<f64>>| -> Vec<_> {
        let labs = report.labs.iter();
        labs.filter_map(|lab| Some((lab.lab_id.clone(), row(&lab.figures)?)))
            .take(MOST_LABS)
            .collect()
    };
    plots.push(Plot::new(
        "Costliest labs",
        "Memory multiplied by time, in GiB hours.",
        &MEMORY,
        plot::bars(
            &labs(|it| Some(vec![it.memory_used_gib_hours, it.freed()])),
            &MEMORY,
            "GiB h",
        )?,
    ));
    let builds = labs(|it| {
        let (half, longest) = it.builds.p50_seconds.zip(it.builds.longest_seconds)?;
        Some(vec![half / 60.0, (longest - half) / 60.0])
    });
    if !builds.is_empty() {
        plots.push(Plot::new(
            "Builds",
            "Duration of a build in minutes, by lab.",
            &BUILDS,
            plot::bars(&builds, &BUILDS, "min")?,
        ));
    }
    Ok(plots)
}

/// A plot over time. Days begin at midnight in `zone`.
fn in_time(
    course: &Course,
    zone: &TimeZone,
    values: impl Fn(&Moment) -> Vec<f64>,
    layers: &[Layer],
    unit: &str,
) -> Result<String> {
    let first = ZonedDateTime::new(course.time(0), zone.clone());
    let midnight = first
        .start_of_day()
        .map_or(course.time(0), |day| day.timestamp());
    let all = course.step.as_secs_f64() / 3600.0 * course.moments.len() as f64;
    // Labels for days or hours.
    let unit_hours = if all > 48.0 { 24.0 } else { 1.0 };
    let x = |n: usize| course.time(n).duration_since(midnight).as_secs_f64() / 3600.0 / unit_hours;
    let points: Vec<_> = course
        .moments
        .iter()
        .enumerate()
        .map(|(n, moment)| (x(n), values(moment)))
        .collect();
    let label = |x: &f64| {
        let after = SignedDuration::try_from_secs_f64(x * unit_hours * 3600.0).unwrap_or_default();
        let at = midnight.saturating_add(after).unwrap_or(midnight);
        let is_day = unit_hours > 1.0 && x.fract() == 0.0;
        local(at, zone, if is_day { "%a %d %b" } else { "%H:%M" })
    };
    plot::layers(&points, layers, unit, &label)
}

fn local(at: Timestamp, zone: &TimeZone, format: &str) -> String {
    let at = ZonedDateTime::new(at, zone.clone());
    at.strftime(format).to_string()
}

/// Resumes and starts by duration, from the quickest to the slowest.
fn waits(total: &Account) -> Vec<(String, Vec<f64>)> {
    let of = |durations: &Durations| {
        let (buckets, _) = durations.histogram();
        let mut before = 0;
        let counts = buckets.into_iter().map(|(_, count)| {
            let here = count - before;
            before = count;
            here as f64
        });
        let mut counts: Vec<_> = counts.collect();
        counts.push((durations.count - before) as f64);
        counts
    };
    let names = BOUNDS.iter().map(|bound| match bound {
        short if *short < 60.0 => format!("up to {short} s"),
        long => format!("up to {} min", long / 60.0),
    });
    let names = names.chain(["longer".to_owned()]);
    let both = of(&total.resumes).into_iter().zip(of(&total.starts));
    let rows: Vec<_> = names
        .zip(both)
        .map(|(name, (one, other))| (name, vec![one, other]))
        .collect();
    let is_empty = |(_, values): &(String, Vec<f64>)| values.iter().sum::<f64>() == 0.0;
    let first = rows.iter().position(|row| !is_empty(row)).unwrap_or(0);
    let last = rows.iter().rposition(|row| !is_empty(row)).unwrap_or(0);
    rows[first..=last].to_vec()
}
