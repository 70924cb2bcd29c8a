//! `libdcmi.so`: the vendor's management library over the stand-in driver. Each thread has a connection of its
//! own, so a call that hangs holds up its thread and no other, as a stuck ioctl does.
// The exported names and what they do are the vendor's.
#![allow(missing_docs, clippy::missing_safety_doc)]

mod event;
mod structs;
mod system;
mod unit;
mod wire;
