//! Real tools and independent readers judge the bytes that Slipform writes.

mod boot;
mod disks;
mod filesystems;
mod formats;
mod fuzz;
mod media;
mod pinned;
mod scene;
mod stores;
mod tools;
mod volumes;
