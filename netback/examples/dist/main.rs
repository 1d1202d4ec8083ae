//! Manual pages and shell completions, made from the command line itself: `cargo run --example dist -- DIRECTORY`.
//! `cargo xtask dist` runs it; the package holds what it writes.
mod manual;

use clap::CommandFactory;
use clap_complete::Shell;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("name the directory to write to"));
    };
    let directory = Path::new(&directory);
    let man = directory.join("man");
    std::fs::create_dir_all(&man)?;
    for (name, page) in manual::pages()? {
        std::fs::write(man.join(name), page)?;
    }
    let mut command = netback::cli::Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "netback", directory)?;
    }
    Ok(())
}
