//! Hardware that no vendor library tells of: one YAML file per vendor says what there is, and files on the node say
//! what is so now (identity, health). Nothing is guessed: what the file does not say is unknown.

mod backend;
mod description;
mod edits;
mod files;
mod glob;
mod scan;
mod watch;

pub use backend::{Generic, GenericOptions, GenericSource, InvalidSource};
pub use description::{GenericDevice, GenericDevices, HealthFile, Sharing, Text};

#[cfg(test)]
mod tests;
