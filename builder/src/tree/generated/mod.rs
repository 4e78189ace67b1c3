//! The topmost layer.
