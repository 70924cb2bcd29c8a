//! Placeholder; see docs.
