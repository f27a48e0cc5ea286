// SPDX-License-Identifier: Apache-2.0
//! System calls as safe typed functions: the only crate with unsafe code.
//!
//! Whatever `rustix` offers safely is called through `rustix` directly, from any crate.
//! Here is what it lacks, one file per family, without any container policy:
//!
//! | module    | what                                                          |
//! |-----------|---------------------------------------------------------------|
//! | [`error`] | a failed call with its arguments and errno                    |

pub mod error;

pub use error::{Call, Errno, Error, Result};
