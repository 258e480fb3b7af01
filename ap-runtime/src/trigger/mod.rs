//! Schedules and polls: what starts runs by time.
//!
//! The store hands out a trigger that is due to one worker at a time, under an epoch. What it comes to, its runs, its cursor and
//! when it is due next, is one transaction under that epoch: a crash before it repeats the look and nothing else, and a worker
//! that was replaced meanwhile is refused. A tick, and an item with a key, is a delivery with an identity besides, so that not
//! even a defect of the order of things makes two runs of it.

mod schedule;

pub(crate) use self::schedule::Schedule;
