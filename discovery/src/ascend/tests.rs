//! The Ascend backend against a fake table of DCMI answers: what a pass makes of sick, odd and hostile hardware.

mod fake;
mod files;
mod kinds;
mod passes;
