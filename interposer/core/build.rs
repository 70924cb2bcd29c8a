//! The back end is loaded into programs of images that are older than the machine it is built on.

fn main() {
    vnpu_floor::lower(vnpu_floor::Links::Library);
}
