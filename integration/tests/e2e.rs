// SPDX-License-Identifier: Apache-2.0
//! Runs the end-to-end tests; see `integration::suite` for what can be chosen.

fn main() -> std::process::ExitCode {
    integration::suite::main()
}
