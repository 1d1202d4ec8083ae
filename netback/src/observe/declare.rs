//! How counters are declared: name, help and kind once, and everything that shows them derived from that.
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// What kind of number a declared counter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// One counter for each [`DropReason`].
    Drops,
    /// One gauge for each index of a ring: [`RingGauges::DECLARED`].
    Ring,
}

impl Kind {
    /// The kind in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Drops => "drops",
            Self::Ring => "ring",
        }
    }
}

/// The declaration of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declared {
    /// The counter's name in `status --json`.
    pub name: &'static str,
    /// The counter's doc comment.
    pub help: &'static str,
    /// The counter's kind.
    pub kind: Kind,
}

/// A field of a declared struct of counters.
pub trait Field {
    /// The field's kind.
    const KIND: Kind;
    /// The field in a report.
    type Value: Serialize + DeserializeOwned + Clone + Debug;
    /// Reads the field, from any thread.
    fn value(&self) -> Self::Value;
    /// The value as `status` prints it; `None` where nothing has happened.
    fn text(value: &Self::Value) -> Option<String>;
}

/// Declares a struct of counters that one thread writes, and the struct of plain numbers that a report holds: every counter has its
/// name, its help and its kind here and nowhere else.
macro_rules! counters {
    (
        $(#[$meta:meta])* $stats:ident,
        $(#[$counts_meta:meta])* $counts:ident,
        { $($(#[doc = $help:literal])+ $field:ident: $kind:ty,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $stats { $($(#[doc = $help])+ pub $field: $kind,)+ }

        $(#[$counts_meta])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        pub struct $counts { $($(#[doc = $help])+ pub $field: <$kind as Field>::Value,)+ }

        impl $stats {
            /// The declaration of every counter of this struct.
            pub const DECLARED: &'static [Declared] = &[$(Declared {
                name: stringify!($field),
                help: concat!($($help),+),
                kind: <$kind as Field>::KIND,
            },)+];
        }

        impl From<&$stats> for $counts {
            fn from(stats: &$stats) -> Self {
                Self { $($field: Field::value(&stats.$field),)+ }
            }
        }

        impl $counts {
            /// Name and text of every counter that is not zero, in the order of their declaration.
            pub fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
                [$((stringify!($field), <$kind as Field>::text(&self.$field)),)+]
                    .into_iter()
                    .filter_map(|(name, text)| Some((name, text?)))
            }
        }
    };
}
pub(crate) use counters;
