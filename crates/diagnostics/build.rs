// SPDX-License-Identifier: Apache-2.0
//! Makes Rust of the service's messages. Pure Rust: no `protoc` is needed.

fn main() {
    println!("cargo:rerun-if-changed=proto/diagnostics.proto");
    // Without descriptors: they would be in every shim's memory, and nobody reflects.
    let customize = protobuf_codegen::Customize::default().lite_runtime(true);
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/diagnostics.proto")
        .customize(customize)
        .cargo_out_dir("v1")
        .run_from_script();
}
