//! The tests of the built program, one module a subject.
//!
//! One program, so that it is linked once and its tests run side by side: most of them wait for
//! something most of the time. `tests/run.sh` gives it a host of its own (`tests/world.sh`).

mod common;

// First, because tests are begun in the order of their names: these take longest.
mod booted;

mod access;
mod as_user;
mod backend;
mod branding;
mod broken_out;
mod build;
mod class;
mod cleanup;
mod cli;
mod cluster;
mod completions;
mod daemon;
mod doctor;
mod examples;
mod flags;
mod full_disk;
mod gateway;
mod hanging;
mod hostile;
mod hosts;
mod idle;
mod installed;
mod instances;
mod interrupted;
mod labs;
mod lifecycle;
mod listing;
mod metrics;
mod monitoring;
mod network;
mod package;
mod packer_archive;
mod pressure;
mod ready;
mod reaper;
mod reaper_day;
mod reaper_week;
mod reference;
mod report;
mod saved_memory;
mod schema;
mod screens;
mod scripts;
mod sharing;
mod stress;
mod timetable;
mod upgrade;
mod warm;
mod watching;
mod working;
