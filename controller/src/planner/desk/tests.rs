//! The desk on small clusters: what is observed goes in as objects of the API, what it wants done comes out.

mod batches;
mod bench;
mod capacity;
mod change;
mod following;
mod leading;
mod letting_go;
