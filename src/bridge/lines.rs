//! Lines of standard input.

pub(super) use crate::lines::{Lines, Read, TOO_LONG};
