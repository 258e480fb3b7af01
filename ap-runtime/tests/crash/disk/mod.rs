//! A machine whose power fails, whose disk refuses calls, and whose disk lies.
//!
//! What a child writes goes through `shim.c`, which takes back at the crash what was not synced: the page cache, which
//! outlives `kill -9`, hides nothing here. The verdict is that of the kill loop, and it finds the two faults it is for: a
//! sync that does nothing, and an acknowledgement that comes before its commit.

mod faults;
mod power;
pub mod shim;
