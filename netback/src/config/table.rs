//! The configuration file as TOML, whose values are taken key by key: each error has its line and speaks the file's language.
use super::ConfigError;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest excerpt of the file in an error line, in characters.
const EXCERPT: usize = 40;

/// The text of a configuration file and where it came from.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl<'a> Text<'a> {
    /// The file's outermost table.
    ///
    /// # Errors
    /// The text is not TOML.
    pub(super) fn parse(self) -> Result<DeTable<'a>, ConfigError> {
        let parsed = DeTable::parse(self.text).map_err(|error| {
            let span = error.span();
            // The parser's message may have several lines; the rule is one.
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            let place = match span.clone().map(|span| self.excerpt(span)) {
                Some(written) if !written.trim().is_empty() => format!(" (at {written})"),
                _ => String::new(),
            };
            let reason = format!("this is not TOML: {message}{place}");
            self.error(span.map(|span| span.start), "", reason)
        })?;
        Ok(parsed.into_inner())
    }

    /// An error about the value or key that begins at byte `at`.
    pub(super) fn error(self, at: Option<usize>, field: &str, reason: String) -> ConfigError {
        // Where the parser's span ends beyond the text, all of the text is before it.
        let before = |byte: usize| self.text.get(..byte).unwrap_or(self.text);
        ConfigError {
            file: self.path.into(),
            line: at.map(|byte| before(byte).matches('\n').count() + 1),
            // A key in quotes may hold any character.
            field: field.escape_debug().to_string(),
            reason,
        }
    }

    /// What is written in the file, or its first characters.
    fn excerpt(self, span: Range<usize>) -> String {
        let written = self.text.get(span).unwrap_or_default().trim_end();
        let line = written.lines().next().unwrap_or_default();
        let mut excerpt: String = line.chars().take(EXCERPT).collect();
        if excerpt.len() < written.len() {
            excerpt += "...";
        }
        excerpt
    }
}

/// One table of the file. Every key in it is one that the table has.
pub(super) struct Table<'a> {
    text: Text<'a>,
    name: &'static str,
    values: DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The table `name`, with `values`, in which no other keys than `keys` may stand.
    ///
    /// # Errors
    /// A key that the table has not: the first such key in the file.
    pub(super) fn new(
        text: Text<'a>,
        name: &'static str,
        keys: &[&str],
        values: DeTable<'a>,
    ) -> Result<Self, ConfigError> {
        let unknown = values
            .keys()
            .filter(|key| !keys.contains(&&**key.get_ref()));
        if let Some(key) = unknown.min_by_key(|key| key.span().start) {
            let field = format!("{name}.{}", key.get_ref());
            let reason = format!("there is no such key; {name} has {}", keys.join(", "));
            return Err(text.error(Some(key.span().start), &field, reason));
        }
        Ok(Self { text, name, values })
    }

    /// An error about `key`, at its value.
    pub(super) fn error(&self, key: &str, reason: String) -> ConfigError {
        let at = self.values.get(key).map(|value| value.span().start);
        let field = format!("{}.{key}", self.name);
        self.text.error(at, &field, reason)
    }

    /// An error about `key` whose value is not what `wanted` says.
    fn is_not(&self, key: &str, value: &Spanned<DeValue<'a>>, wanted: &str) -> ConfigError {
        let quoted = value.get_ref().as_str();
        let hint = match quoted {
            Some(text) if text.parse::<i64>().is_ok() || text.parse::<bool>().is_ok() => {
                "; write it without quotes"
            }
            _ => "",
        };
        let written = match value.get_ref() {
            DeValue::Table(_) => "a table".into(),
            DeValue::Array(_) => "a list".into(),
            _ => self.text.excerpt(value.span()),
        };
        self.error(key, format!("{written} is not {wanted}{hint}"))
    }

    /// The whole number under `key`; `None` where the key is not there.
    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let digits = value.get_ref().as_integer();
        let number =
            digits.and_then(|digits| i64::from_str_radix(digits.as_str(), digits.radix()).ok());
        let within = number.filter(|number| range.contains(number));
        within
            .and_then(|number| T::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| {
                let wanted = format!("a whole number from {} to {}", range.start(), range.end());
                self.is_not(key, value, &wanted)
            })
    }

    /// The yes or no under `key`; `None` where the key is not there.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let boolean = value.get_ref().as_bool();
        boolean
            .map(Some)
            .ok_or_else(|| self.is_not(key, value, "true or false"))
    }

    /// The string under `key`; `None` where the key is not there.
    pub(super) fn string(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let string = value.get_ref().as_str();
        string
            .map(|string| Some(string.to_owned()))
            .ok_or_else(|| self.is_not(key, value, "text in double quotes"))
    }

    /// The path under `key`, which starts at the root; `None` where the key is not there.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(string) = self.string(key)? else {
            return Ok(None);
        };
        if !string.starts_with('/') || string.contains(|c: char| c.is_control()) {
            let reason = format!("{string:?} is not an absolute path");
            return Err(self.error(key, reason));
        }
        Ok(Some(string.into()))
    }
}
