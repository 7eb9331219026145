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

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::super::log::tests::logged;
    use super::*;

    #[test]
    fn a_panic_is_one_line_with_a_backtrace_and_without_what_was_put_in() {
        let before = std::panic::take_hook();
        log_panics();
        let lines = logged(|| {
            let span = tracing::info_span!("call", whitelistmcp.call = "c-1");
            let secret = std::hint::black_box("sesame");
            let work = AssertUnwindSafe(|| span.in_scope(|| panic!("cannot read {secret}")));
            let broken = std::panic::catch_unwind(work);
            assert!(broken.is_err());
            let broken = std::panic::catch_unwind(|| std::panic::panic_any("in the source"));
            assert!(broken.is_err());
            // A value that panics while it is recorded, inside the very span that the line is about.
            struct Broken;
            impl std::fmt::Debug for Broken {
                fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    panic!("no text")
                }
            }
            let span = tracing::info_span!("call", whitelistmcp.call = tracing::field::Empty);
            let broken = std::panic::catch_unwind(AssertUnwindSafe(|| {
                span.in_scope(|| {
                    span.record("whitelistmcp.call", tracing::field::debug(Broken));
                });
            }));
            assert!(broken.is_err());
        });
        std::panic::set_hook(before);
        let lines: Vec<_> = lines.into_iter().filter(|line| line["level"] == "ERROR").collect();
        assert_eq!(lines.len(), 3);
        let text = serde_json::to_string(&lines).expect("JSON");
        assert!(!text.contains("sesame"), "{text}");
        assert_eq!(lines[0]["call"], "c-1");
        assert!(lines[0]["location"].as_str().is_some_and(|place| place.contains("panic.rs")), "{text}");
        assert!(lines[0]["backtrace"].as_str().is_some_and(|trace| trace.contains("catch_unwind")), "{text}");
        assert_eq!(lines[1]["message_in_source"], "in the source");
    }
}
