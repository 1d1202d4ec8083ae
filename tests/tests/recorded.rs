//! What stock netfronts wrote and sent on real Xen, replayed against the code of ring and vif. tests/recordings has the recordings, which
//! `cargo xtask xen record` makes; tests/src/bin/recorder describes their format.

#[path = "recorded/frontend.rs"]
mod frontend;
#[path = "recorded/rings.rs"]
mod rings;
#[path = "recorded/vif.rs"]
mod vif;

use std::path::PathBuf;

/// A recording by the name of its file, line by line.
struct Recording {
    name: String,
    lines: Vec<String>,
}

/// All recordings, one for each kernel.
fn recordings() -> Vec<Recording> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let files = std::fs::read_dir(&directory).expect("tests/recordings is committed");
    let recordings: Vec<Recording> = files
        .map(|file| {
            let path = file.expect("a directory can be listed").path();
            let text = std::fs::read_to_string(&path).expect("a recording is text");
            Recording {
                name: path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                lines: text.lines().map(String::from).collect(),
            }
        })
        .collect();
    assert!(
        recordings.len() >= 2,
        "two generations of netfront are recorded"
    );
    recordings
}

impl Recording {
    /// The rest of each line that begins with `word`.
    fn of<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '))
    }
}
