//! The program's own state: activity, records, addresses and locks.

pub mod activity;
pub mod coverage;
pub mod keep;
pub mod lock;
pub mod token;
