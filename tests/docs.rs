// SPDX-License-Identifier: Apache-2.0
//! The table of the specification's fields does not name tests that do not exist.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of all functions below a directory.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let is_build = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !is_build {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let found = text.lines().filter_map(|line| {
                let name = line.trim_start().strip_prefix("fn ")?;
                Some(name.split(['(', '<']).next()?.to_owned())
            });
            names.extend(found);
        }
    }
}

#[test]
fn every_field_of_the_table_has_a_status_and_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for directory in ["crates", "integration", "src", "tests"] {
        functions(&root.join(directory), &mut names);
    }
    let table = fs::read_to_string(root.join("docs/spec.md")).unwrap();
    let mut fields = 0;
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[field, status, tests] = cells.as_slice() else {
            panic!("three columns: {line}");
        };
        if field == "field" {
            continue;
        }
        let words = ["works", "refused", "ignored"];
        assert!(words.iter().any(|word| status.starts_with(word)), "{line}");
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{line}");
        for test in tests {
            let is_file = test.ends_with(".rs") && root.join(test).is_file();
            assert!(
                is_file || names.contains(test),
                "there is no test {test}: {line}"
            );
        }
        fields += 1;
    }
    assert!(
        fields > 70,
        "{fields} rows are not all of the specification"
    );
}
