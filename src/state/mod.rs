//! The program's own state: activity, records and locks.

pub mod activity;
pub mod lock;
pub mod record;
pub mod reservation;
pub mod saved;
