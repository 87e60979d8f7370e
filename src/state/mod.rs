//! The program's own state: activity, records, addresses and locks.

pub mod activity;
pub mod addresses;
pub mod coverage;
pub mod journal;
pub mod keep;
pub mod lock;
pub mod passes;
pub mod record;
pub mod reservation;
pub mod saved;
