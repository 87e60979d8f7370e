//! Tests with guests that boot a real system, which takes most of a minute under software emulation.

mod class_verbs;
mod desktop;
mod end_to_end;
mod forks;
mod guests;
mod isolation;
mod lying_guest;
mod reaper_guests;
mod shipped_labs;
