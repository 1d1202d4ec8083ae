//! What clap says of a wrong command line, in one line.

/// One line for a command line that clap refused: what is wrong, what clap proposes, and whose `--help` says more.
pub fn refusal(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let mut lines = rendered.lines().map(str::trim);
    let said: Vec<&str> = lines
        .by_ref()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ").replace(" tip: ", "; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said}; `{} --help` says more", command(&rendered))
}

/// The command whose usage stands in what clap says: the words of its `Usage:` line up to the first argument.
fn command(rendered: &str) -> String {
    let usage = rendered
        .lines()
        .find_map(|line| line.trim().strip_prefix("Usage: "));
    let is_name = |word: &&str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
    };
    let words: Vec<&str> = usage
        .unwrap_or("netback")
        .split(' ')
        .take_while(is_name)
        .collect();
    words.join(" ")
}
