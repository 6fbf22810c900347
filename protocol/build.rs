//! Compiles the published wire contracts without `protoc`, when the feature `grpc` asks for them.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/stint.proto");
    if std::env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["proto/stint.proto"], ["proto"])?;
    std::fs::write(out.join("stint.bin"), descriptors.encode_to_vec())?;
    // Bytes of images go from the socket to the disk without a copy.
    tonic_prost_build::configure().bytes(".stint.v1.RegisterImageRequest").compile_fds(descriptors)?;
    Ok(())
}
