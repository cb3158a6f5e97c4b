//! The kept corpus of the fuzz targets, through the same checks. `make fuzz` looks for inputs that are not in it.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../../fuzz/src/lib.rs"]
pub mod checks;

#[test]
fn checks_hold_for_the_kept_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut failed = Vec::new();
    for (name, check) in checks::CHECKS {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name)).expect("each target has a folder").collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            let path = input.expect("it can be listed").path();
            let data = fs::read(&path).expect("it can be read");
            if catch_unwind(|| check(&data)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "checks do not hold for {failed:#?}");
}
