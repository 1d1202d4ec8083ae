//! What the project's commands share, here and in the rig: builds, child processes, packages, what the host must allow.

pub mod build;
pub mod command;
pub mod deb;
pub mod host;
pub mod packages;
pub mod tool;
