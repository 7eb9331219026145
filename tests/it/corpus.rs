//! The fuzzer's corpus as a plain test: what holds of any bytes holds of all that it has found.

use std::path::Path;

use whitelistmcp::annotations::Annotations;
use whitelistmcp::pb::DESCRIPTOR_SET;

use crate::support::backend;

#[path = "../../fuzz/properties.rs"]
mod properties;

#[test]
fn what_holds_of_any_message_holds_of_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/message");
    let ours = Annotations::read(DESCRIPTOR_SET).expect("annotated");
    let others = Annotations::read(&backend::descriptors()).expect("annotated");
    let mut count = 0;
    for file in std::fs::read_dir(corpus).expect("a corpus") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("bytes");
        for annotations in [&ours, &others] {
            properties::message(annotations, &bytes);
        }
        // Cut anywhere, it is still a message or a refusal.
        for end in (0..bytes.len()).step_by(7) {
            properties::message(&ours, &bytes[..end]);
        }
        count += 1;
    }
    assert!(count >= 40, "{count}");
}
