// SPDX-License-Identifier: Apache-2.0
//! The tables of the specification's fields and of the channels do not name tests that do not exist.
//! [`fields`]: that of the fields has all of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

mod fields;

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

/// Names of all functions of the workspace.
fn all_functions(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for directory in ["crates", "integration", "src", "tests"] {
        functions(&root.join(directory), &mut names);
    }
    names
}

/// The rows of all tables of a document, cut into their cells, without heads.
fn rows(document: &str, columns: usize) -> Vec<Vec<&str>> {
    let lines = document.lines().filter(|line| line.starts_with("| "));
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), columns, "columns of {line}");
        cells
    });
    rows.filter(|cells| !matches!(cells[0], "field" | "no."))
        .collect()
}

/// The tests that a cell names exist, and there is at least one.
fn assert_tests(root: &Path, names: &BTreeSet<String>, cell: &str) {
    let tests: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    assert!(!tests.is_empty(), "no test: {cell}");
    for test in tests {
        let is_file = test.ends_with(".rs") && root.join(test).is_file();
        assert!(is_file || names.contains(test), "there is no test {test}");
    }
}

#[test]
fn every_field_of_the_table_has_a_status_and_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = all_functions(root);
    let document = fs::read_to_string(root.join("docs/spec.md")).unwrap();
    let rows = rows(&document, 3);
    for row in &rows {
        let words = ["works", "refused", "ignored"];
        assert!(words.iter().any(|word| row[1].starts_with(word)), "{row:?}");
        assert_tests(root, &names, row[2]);
    }
    let fields = rows.len();
    assert!(
        fields > 70,
        "{fields} rows are not all of the specification"
    );
}

#[test]
fn every_channel_has_a_status_and_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = all_functions(root);
    let document = fs::read_to_string(root.join("docs/communication.md")).unwrap();
    let rows = rows(&document, 4);
    let numbers: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let expected: Vec<String> = (1..=68).map(|number: u32| number.to_string()).collect();
    assert_eq!(numbers, expected);
    for row in &rows {
        let words = ["works", "otherwise", "not done", "see README"];
        assert!(words.iter().any(|word| row[2].starts_with(word)), "{row:?}");
        assert_tests(root, &names, row[3]);
    }
}
