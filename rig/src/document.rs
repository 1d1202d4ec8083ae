//! docs/driver-domain.md as a program: what it has typed, where, and what it says must be seen.
//!
//! In a block ```` ```console ```` a line such as `dom0# xl list` is a command, and the lines up to the next one are its output: `...`
//! in a line is any text, `...` alone any number of lines. A block ```` ```ini dom0:/path ```` is a file to be written. One that has
//! the name of a domain's type behind that counts where the driver domain is of this type.

use crate::kind::DomainType;
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};

const FENCE: &str = "```";
/// Stands for what differs from machine to machine.
const ANYTHING: &str = "...";

/// A numbered section: `## 3. Install and configure`.
pub struct Section {
    pub number: usize,
    pub title: String,
    pub steps: Vec<Step>,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub place: Place,
    pub action: Action,
}

/// What is done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Write {
        path: String,
        text: String,
    },
    Type {
        command: String,
        output: Vec<String>,
    },
}

/// Every section with its steps for a driver domain of this type.
pub fn sections(document: &str, driver: DomainType) -> Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            let (number, title) = heading
                .split_once(". ")
                .with_context(|| format!("section {heading:?} has no number"))?;
            sections.push(Section {
                number: number.parse().context("a section's number")?,
                title: title.into(),
                steps: Vec::new(),
            });
        }
        let Some(kind) = line.strip_prefix(FENCE) else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != FENCE).collect();
        let section = sections.last_mut().context("a block before any section")?;
        let (kind, wanted) = condition(kind);
        if wanted.is_none_or(|wanted| wanted == driver) {
            section.steps.extend(steps(kind, &block)?);
        }
    }
    Ok(sections)
}

/// A block's kind without the type of domain that it is for, and that type.
fn condition(kind: &str) -> (&str, Option<DomainType>) {
    let types = [DomainType::Pv, DomainType::Pvh, DomainType::Hvm];
    kind.rsplit_once(' ')
        .and_then(|(kind, word)| {
            let wanted = types.into_iter().find(|domain| domain.name() == word)?;
            Some((kind, Some(wanted)))
        })
        .unwrap_or((kind, None))
}

fn steps(kind: &str, block: &[&str]) -> Result<Vec<Step>> {
    if kind == "console" {
        return console(block);
    }
    let target = kind.split_once(' ').map(|(_, target)| target);
    let (place, path) = target
        .and_then(|target| target.split_once(':'))
        .with_context(|| format!("a block {kind:?} is neither console nor a file"))?;
    let action = Action::Write {
        path: path.into(),
        text: block.join("\n") + "\n",
    };
    Ok(vec![Step {
        place: place.parse()?,
        action,
    }])
}

fn console(block: &[&str]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block {
        let prompt = line.split_once("# ");
        if let Some((Ok(place), command)) = prompt.map(|(place, rest)| (place.parse(), rest)) {
            let action = Action::Type {
                command: command.into(),
                output: Vec::new(),
            };
            steps.push(Step { place, action });
        } else if let Some(Action::Type { output, .. }) =
            steps.last_mut().map(|step| &mut step.action)
        {
            output.push((*line).into());
        } else {
            bail!("output before any command: {line}");
        }
    }
    Ok(steps)
}

/// Fails unless `said` is what the document shows. How many blanks are between words is not looked at.
pub fn compare(shown: &[String], said: &str) -> Result<()> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = shown.iter().map(|line| words(line)).collect();
    let lines: Vec<String> = said
        .lines()
        .map(words)
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(
        matches(
            &shown,
            &lines,
            &|pattern| pattern == ANYTHING,
            &|pattern, line| line_matches(pattern, line)
        ),
        "the document shows {:?}, there was {:?}",
        shown.join("\n"),
        lines.join("\n")
    );
    Ok(())
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let split = |text: &str| text.replace(ANYTHING, "\0").chars().collect::<Vec<char>>();
    matches(
        &split(pattern),
        &line.chars().collect::<Vec<_>>(),
        &|c| *c == '\0',
        &|a, b| a == b,
    )
}

/// Whether `items` are as `pattern` has them, where an element that is `any` stands for any number of items.
fn matches<T>(
    pattern: &[T],
    items: &[T],
    any: &dyn Fn(&T) -> bool,
    same: &dyn Fn(&T, &T) -> bool,
) -> bool {
    // reached[i]: the pattern so far can stand for the first i items.
    let mut reached = vec![false; items.len() + 1];
    reached[0] = true;
    for element in pattern {
        if any(element) {
            let first = reached.iter().position(|reached| *reached);
            let first = first.unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for i in (1..reached.len()).rev() {
                reached[i] = reached[i - 1] && same(element, &items[i - 1]);
            }
            reached[0] = false;
        }
    }
    reached[items.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n## 1. First\n\n```console\ndom0# xl list\n...\nguest 7 ...\nguest# true\n```\n\n\
                        ## 2. Second\n```ini dom0:/etc/x.cfg\na = 1\nb = 2\n```\n```ini dom0:/etc/y.cfg hvm\nc = 3\n```\n";

    #[test]
    fn commands_have_their_place_and_their_output() {
        let sections = super::sections(TEXT, DomainType::Pv).unwrap();
        let titles: Vec<_> = sections
            .iter()
            .map(|s| (s.number, s.title.as_str()))
            .collect();
        assert_eq!(titles, [(1, "First"), (2, "Second")]);
        let typed = |command: &str, output: &[&str]| Action::Type {
            command: command.into(),
            output: output.iter().map(|line| String::from(*line)).collect(),
        };
        let steps: Vec<_> = sections[0].steps.iter().map(|s| &s.action).collect();
        assert_eq!(
            steps,
            [
                &typed("xl list", &["...", "guest 7 ..."]),
                &typed("true", &[])
            ]
        );
        assert_eq!(sections[0].steps[1].place, Place::Guest(1));
        let file = Action::Write {
            path: "/etc/x.cfg".into(),
            text: "a = 1\nb = 2\n".into(),
        };
        assert_eq!(sections[1].steps[0].action, file);
        assert_eq!(sections[1].steps.len(), 1);
        let hvm = super::sections(TEXT, DomainType::Hvm).unwrap();
        assert_eq!(hvm[1].steps.len(), 2);
        let wrong = |text| super::sections(text, DomainType::Pv).is_err();
        assert!(wrong("## 1. A\n```console\nno command\n```\n"));
        assert!(wrong("## 1. A\n```sh\ntrue\n```\n"));
    }

    #[test]
    fn output_must_be_as_shown() {
        let shows = |shown: &[&str], said: &str| {
            let shown: Vec<String> = shown.iter().map(|line| String::from(*line)).collect();
            compare(&shown, said).is_ok()
        };
        assert!(shows(&[], ""));
        assert!(!shows(&[], "a"));
        assert!(shows(&["a  b"], "a b\n"));
        assert!(!shows(&["a"], "a b\n"));
        assert!(shows(&["a ... c"], "a x y c"));
        assert!(!shows(&["a ... c"], "a x y"));
        assert!(shows(&["...", "b", "..."], "a\nb"));
        assert!(!shows(&["...", "b"], "a\nb\nc"));
        assert!(!shows(&["b"], ""));
    }
}
