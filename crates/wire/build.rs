//! Compiles `proto/` without a system protoc: types for the messages that handlers use, descriptors for all of them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const FILES: [&str; 13] = [
    "tensorflow.proto",
    "tensorflow_config.proto",
    "tensorflow_error.proto",
    "tensorflow_profiler.proto",
    "serving.proto",
    "serving_batching.proto",
    "serving_config.proto",
    "serving_platform.proto",
    "servable.proto",
    "servable_access.proto",
    "servable_admin.proto",
    "servable_batching.proto",
    "health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked for now and not when this was compiled: checkouts may share a target folder, and this program with it.
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed=../../proto");
    let descriptors = protox::compile(FILES, [&folder])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    prost_build::Config::new().include_file("messages.rs").compile_fds(descriptors)?;
    Ok(())
}
