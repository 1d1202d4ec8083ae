//! Texts of `--help` that the manual pages show too, as they are typed.

/// What `netback --help` shows as examples.
pub const EXAMPLES: &str = "\
netback doctor                say what stands in the way on this machine
netback run --check           say whether the configuration is right
netback run                   serve guests, in the foreground
netback status                every vif and uplink, with counters
netback status --json | jq .vifs
netback vif show 3/0          one vif with its queues and counters
netback fdb show              the addresses that bridges know
netback disconnect 3/0        disconnect vif 0 of domain 3
netback disconnect --all      disconnect every vif
netback uninstall eth0        give the network card back to the kernel
";

/// Exit statuses of every command.
pub const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Done."),
    (
        "1",
        "Something failed at run time; of `netback doctor`: there are warnings.",
    ),
    (
        "2",
        "Wrong input, or something on this machine is not as it must be; of `netback doctor`: there are errors.",
    ),
];

/// The configuration as the package installs it, with every key and its default.
pub const CONFIGURATION: &str = include_str!("../../../packaging/netback.toml");

/// What follows the options in `netback --help`.
pub(super) fn after_help() -> String {
    let statuses: Vec<String> = EXIT_STATUS
        .iter()
        .map(|(status, meaning)| format!("{status}  {meaning}"))
        .collect();
    format!(
        "Examples:\n{}\n\nExit status:\n{}\n\nAn error is one line on stderr: what is wrong, with what, and what to do.\n\
         Manual pages: netback(8), netback.toml(5).",
        indented(EXAMPLES),
        indented(&statuses.join("\n"))
    )
}

/// What follows the options in `netback run --help`.
pub(super) fn after_run_help() -> String {
    format!(
        "The configuration as the package installs it; what is commented out is the default:\n\n{}",
        indented(CONFIGURATION)
    )
}

fn indented(text: &str) -> String {
    let line = |line: &str| format!("  {line}").trim_end().to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
