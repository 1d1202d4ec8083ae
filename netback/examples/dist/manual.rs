//! The manual pages: what clap knows of a command, and around it what a reader looks for in a page of section 8.
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use netback::cli::{Cli, help};
use std::io;

/// What follows the options in netback(8), before the examples.
const ENVIRONMENT: &str = "\
.SH ENVIRONMENT
.TP
.B NETBACK_LOG
What
.B netback run
logs: error, warn, info (the default), debug or trace.
.SH SIGNALS
.TP
.B SIGTERM, SIGINT
End
.BR \"netback run\" .
Guests' connections wait for the next one.
.TP
.B SIGHUP
Read the configuration again.
.SH FILES
.TP
.I /etc/netback/netback.toml
The configuration.
.TP
.I /run/netback
The state of vifs, which the next netback reads, and the control socket.
.TP
.I /sys/fs/bpf/netback
The XDP programs of the network cards, which stay there during a restart.
";

/// Where else to look, at the end of every page.
const SEE_ALSO: &str = "\
.SH \"SEE ALSO\"
.BR netback (8),
.BR netback.toml (5),
.BR xl\\-network\\-configuration (5)
.PP
.I /usr/share/doc/netback/driver\\-domain.md
explains every step from a spare network card to a guest.
";

/// Every page by its file name.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut netback = Cli::command().disable_help_subcommand(true);
    netback.build();
    let mut pages = vec![page(&netback, true)?];
    for command in netback.get_subcommands() {
        pages.push(page(command, false)?);
        for command in command.get_subcommands() {
            pages.push(page(command, false)?);
        }
    }
    let configuration = include_bytes!("../../../packaging/man/netback.toml.5");
    pages.push(("netback.toml.5".into(), configuration.to_vec()));
    Ok(pages)
}

/// The page of one command; `whole` for that of the program.
fn page(command: &Command, whole: bool) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone()).section("8");
    let name = command.get_display_name().unwrap_or(command.get_name());
    let usage = command.clone().render_usage().to_string();
    let title = format!(
        ".TH {} 8 \"\" \"netback {}\" \"System Administration\"\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    let mut page = title.into_bytes();
    man.render_name_section(&mut page)?;
    page.extend(b".SH SYNOPSIS\n");
    page.extend(as_typed(usage.trim_start_matches("Usage: ")).bytes());
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if whole {
        page.extend(b".SH \"EXIT STATUS\"\n");
        for (status, meaning) in help::EXIT_STATUS {
            page.extend(format!(".TP\n.B {status}\n{meaning}\n").bytes());
        }
        page.extend(
            b".PP\nAn error is one line on stderr: what is wrong, with what, and what to do.\n",
        );
        page.extend(ENVIRONMENT.bytes());
        page.extend(b".SH EXAMPLES\n");
        page.extend(as_typed(help::EXAMPLES).bytes());
    }
    page.extend(SEE_ALSO.bytes());
    Ok((format!("{name}.8"), page))
}

/// Lines that no formatter fills or turns into typographer's quotes and dashes.
fn as_typed(text: &str) -> String {
    let line = |line: &str| {
        let line = line
            .replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('\'', "\\(aq")
            .replace('`', "\\(ga");
        // A full stop at the beginning would be a request.
        format!("\\&{line}\n")
    };
    let lines: String = text.lines().map(line).collect();
    format!(".EX\n{lines}.EE\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A page as a terminal of 80 columns shows it.
    fn rendered(page: &[u8]) -> String {
        let mut groff = Command::new("groff");
        groff.args(["-ww", "-man", "-Tascii", "-P-cbou", "-rLL=80n"]);
        let pipes = groff
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("groff is there (groff-base)");
        child.stdin.take().unwrap().write_all(page).unwrap();
        let output = child.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{complaints}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn page(name: &str) -> String {
        let pages = pages().unwrap();
        let (_, page) = pages.iter().find(|(page, _)| page == name).unwrap();
        rendered(page)
    }

    #[test]
    fn there_is_a_page_for_every_command_and_one_for_the_configuration() {
        let mut names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        names.retain(|name| name != "netback-crash-points.8");
        assert_eq!(
            names,
            [
                "netback.8",
                "netback-run.8",
                "netback-status.8",
                "netback-doctor.8",
                "netback-vif.8",
                "netback-vif-show.8",
                "netback-vif-kick.8",
                "netback-vif-disconnect.8",
                "netback-fdb.8",
                "netback-fdb-show.8",
                "netback-fdb-add.8",
                "netback-fdb-del.8",
                "netback-fdb-flush.8",
                "netback-disconnect.8",
                "netback-uninstall.8",
                "netback.toml.5"
            ]
        );
    }

    #[test]
    fn every_page_fits_80_columns() {
        for (name, page) in pages().unwrap() {
            let shown = rendered(&page);
            for section in ["NAME", "DESCRIPTION", "SEE ALSO"] {
                assert!(shown.lines().any(|line| line == section), "{name}: {shown}");
            }
            let widest = shown.lines().max_by_key(|line| line.len()).unwrap();
            assert!(widest.len() <= 80, "{name}: {widest}");
        }
    }

    #[test]
    fn every_page_that_the_pages_refer_to_is_one_of_them() {
        let pages = pages().unwrap();
        for (name, page) in &pages {
            let shown = rendered(page);
            let words = shown.split(|c: char| c.is_whitespace() || c == ',');
            let referred = words.filter(|word| word.starts_with("netback") && word.ends_with(')'));
            for word in referred {
                let file = word.trim_end_matches(')').replace('(', ".");
                assert!(
                    pages.iter().any(|(page, _)| *page == file),
                    "{name}: {word}"
                );
            }
        }
    }

    #[test]
    fn examples_are_shown_as_they_are_typed() {
        let shown = page("netback.8");
        for line in help::EXAMPLES.lines() {
            let indented = format!("       {line}");
            assert!(
                shown.lines().any(|shown| shown == indented),
                "{line}\n{shown}"
            );
        }
        let synopsis = "       netback disconnect [OPTIONS] <DOMID/DEVID|--all>";
        let shown = page("netback-disconnect.8");
        assert!(shown.lines().any(|line| line == synopsis), "{shown}");
        let shown = page("netback.toml.5");
        for line in ["[[bridge]]", "name = \"xenbr0\"", "uplink = \"enp3s0\""] {
            let indented = format!("       {line}");
            assert!(
                shown.lines().any(|shown| shown == indented),
                "{line}\n{shown}"
            );
        }
    }

    #[test]
    fn the_page_of_the_configuration_has_every_key_and_its_examples_are_right() {
        let shown = page("netback.toml.5");
        for (table, keys) in netback::config::KEYS {
            let heading = format!("   The [{table}] table").replace("[bridge]", "[[bridge]]");
            let (_, part) = shown.split_once(&heading).expect(table);
            for key in keys {
                let entry = format!("       {key} = ");
                assert!(part.lines().any(|line| line.starts_with(&entry)), "{key}");
            }
        }
        let (_, examples) = shown.split_once("EXAMPLES\n").unwrap();
        let is_setting = |line: &&str| line.starts_with('[') || line.contains(" = ");
        // What stands between two examples is prose.
        let lines: Vec<&str> = examples.lines().map(str::trim).collect();
        let prose = |line: &&str| !line.is_empty() && !is_setting(line);
        let blocks = lines.split(|line| prose(line));
        let blocks = blocks.filter(|block| block.iter().any(is_setting));
        let examples: Vec<String> = blocks.map(|block| block.join("\n")).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            let config = netback::config::Config::parse("example".as_ref(), &example).unwrap();
            assert_eq!(config.bridges.len(), 2);
        }
    }
}
