//! From the API's objects to what the planner is told: nothing here decides, and nothing here asks the API server.

pub mod claim;
pub mod node;
pub mod owner;
pub mod pod;
pub mod resources;
pub mod slice;
pub mod watch;
