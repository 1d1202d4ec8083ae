//! Programs of cargo's kind that a command needs: taken from PATH, else built once below the target directory.

use crate::command::{cargo, must_succeed};
use crate::{build, host};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// A program that crates.io has.
pub struct Tool {
    /// Its name, and its crate's.
    pub name: &'static str,
    /// The versions that serve.
    pub version: &'static str,
}

/// Build quickly: the tools run for seconds, and an optimised build of one takes minutes.
const QUICKLY: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

impl Tool {
    /// Returns where the program is; builds it on the first use.
    pub fn path(&self) -> Result<PathBuf> {
        if host::in_path(self.name) {
            return Ok(self.name.into());
        }
        let root = build::target_dir()?.join("tools");
        let program = root.join("bin").join(self.name);
        if !program.exists() {
            eprintln!("xtask: building {} (once, some minutes)", self.name);
            let mut install = Command::new(cargo());
            install
                .args(["install", "--locked", self.name])
                .args(["--version", self.version])
                .arg("--root")
                .arg(&root)
                .envs(QUICKLY);
            must_succeed(&mut install, &format!("cargo install {}", self.name))?;
        }
        Ok(program)
    }
}
