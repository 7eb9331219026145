//! Panics: one line of the log each, with a backtrace, and counted.
//!
//! What a panic says may hold whatever was being worked on, such as a value that could not be parsed. So it is said where it
//! was and how it came there, and of its message only what stands in the source: text without anything put in.

use std::backtrace::Backtrace;

/// Logs panics from now on, in place of printing them.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        super::record_panic();
        let payload = panic.payload();
        // A message that was put together at run time is a `String`; one from the source is a `&'static str`.
        let message = match (payload.downcast_ref::<&'static str>(), payload.is::<String>()) {
            (Some(message), _) => message,
            (None, true) => "(a message that was put together at run time, and is not shown)",
            (None, false) => "(no message)",
        };
        let location = panic.location().map(ToString::to_string);
        tracing::error!(
            message_in_source = message,
            location,
            thread = std::thread::current().name(),
            backtrace = %Backtrace::force_capture(),
            "the service met a fault of its own: a panic"
        );
    }));
}
