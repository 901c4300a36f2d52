//! Compiles the two `.proto` files with protox, so that no `protoc` has to be installed, and
//! records the git revision for `--version`, and leaves out of the release what a panic never reads.

use std::error::Error;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    println!("cargo:rerun-if-changed=proto/node.proto");
    let files = protox::compile(["proto/agent.proto", "proto/node.proto"], ["proto"])?;
    prost_build::Config::new()
        .btree_map(["."])
        // Has a password in it: see `message`.
        .skip_debug(["quantix.agent.SetPassword"])
        .compile_fds(files)?;

    if std::env::var("PROFILE").as_deref() == Ok("release") {
        let root = std::env::var("CARGO_MANIFEST_DIR")?;
        println!("cargo:rerun-if-changed=no-unwind.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{root}/no-unwind.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }

    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let revision = Command::new("git")
        .args(["rev-parse", "--short=10", "HEAD"])
        .output()
        .ok()
        .filter(|out| out.status.success())
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=QUANTIX_REVISION={revision}");
    Ok(())
}
