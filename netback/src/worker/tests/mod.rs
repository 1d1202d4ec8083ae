//! Workers on fakes.
