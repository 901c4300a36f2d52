//! Compiles the two `.proto` files with protox, so that no `protoc` has to be installed, and
//! records the git revision for `--version`.

use std::error::Error;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    println!("cargo:rerun-if-changed=proto/node.proto");
    let files = protox::compile(["proto/agent.proto", "proto/node.proto"], ["proto"])?;
    prost_build::Config::new()
        .btree_map(["."])
        .compile_fds(files)?;

    // A panic ends the agent at once: it unwinds nothing, and its image need not carry the tables for it.
    println!("cargo:rerun-if-changed=agent/link.ld");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let here = std::env::var("CARGO_MANIFEST_DIR")?;
        let agent = "cargo:rustc-link-arg-bin=quantix-kvm-agent";
        println!("{agent}=-Wl,--no-eh-frame-hdr");
        println!("{agent}=-Wl,-T,{here}/agent/link.ld");
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
