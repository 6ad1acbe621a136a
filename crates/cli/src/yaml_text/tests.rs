//! Compared with what PyYAML 6 wrote for the same values (`pyyaml.json`).

use serde_json::Value;

use super::{block, flow};

#[test]
fn everything_as_pyyaml_writes_it() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("pyyaml.json")).unwrap();
    assert!(cases.len() > 80);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Some(expected) = case["flow"].as_str() {
            let found = flow(&case["value"]);
            // In a flow, a text with line breaks never occurs where we write one.
            if found != expected && !expected.contains('\n') {
                wrong.push(format!("flow: {found:?}, not {expected:?}"));
            }
        }
        let (found, expected) = (block(&case["value"]), case["block"].as_str().unwrap());
        if found != expected {
            wrong.push(format!("block:\n{found}instead of\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
