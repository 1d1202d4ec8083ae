//! Entering a network namespace by its name.
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;

/// Where ip-netns(8) keeps its handles.
pub const NETNS_DIR: &str = "/run/netns";

/// Moves the calling thread into namespace `name`; processes and sockets it makes from now on are in it.
pub fn enter(name: &str) -> Result<()> {
    let path = format!("{NETNS_DIR}/{name}");
    let file = File::open(&path).with_context(|| format!("no network namespace {name}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter network namespace {name}"))
}
