//! stub
#![allow(missing_docs)]
use jiff::Timestamp;
#[derive(Debug)]
pub struct Line<'a> {
    pub event: &'static str,
    pub at: Timestamp,
    pub chain: &'a str,
    pub seq: u64,
    pub text: &'a str,
    pub trace_id: Option<&'a str>,
    pub span_id: Option<&'a str>,
    pub attributes: &'a [(&'static str, &'a str)],
    pub severity: Severity,
    pub replayed: bool,
}
#[derive(Clone, Copy, Debug)]
pub enum Severity {
    Info,
    Warning,
    Error,
}
pub fn send_line(_line: &Line<'_>) {}
pub fn on_taken(_told: impl Fn(&str, u64) + Send + Sync + 'static) {}
pub fn span_ids() -> Option<(String, String)> {
    None
}
