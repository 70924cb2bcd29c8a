//! The node plugin: registers with the kubelet, publishes what the node has, prepares claims. The binary is a
//! thin start of this; the decisions are the `driver` crate's.

pub mod audit;
pub mod authority;
pub mod breach;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod devices;
pub mod discover;
pub mod error;
pub mod events;
pub mod failpoints;
pub mod hardware;
pub mod health;
pub mod health_stream;
pub mod keyed;
pub mod kubeapi;
pub mod live;
pub mod materials;
pub mod metrics;
pub mod node;
pub mod prepare;
pub mod publisher;
pub mod reconcile;
pub mod regions;
pub mod registration;
pub mod run;
pub mod server;
pub mod service;
pub mod sockets;
pub mod status;
pub mod unprepare;
pub mod vendors;
