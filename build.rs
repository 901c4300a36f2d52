//! Compiles the two `.proto` files with protox, so that no `protoc` has to be installed, and
//! records the git revision for `--version`, and leaves out of the release what a panic never reads.

use std::error::Error;
use std::path::Path;
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

    println!("cargo:rustc-env=QUANTIX_REVISION={}", revision());
    Ok(())
}

/// The commit's first ten digits, as many for everybody; of an archive of the sources by its file, else by git.
fn revision() -> String {
    let paths = [".release", ".git/HEAD", ".git/logs/HEAD"];
    // One that is not there would have cargo build anew each time.
    for path in paths.into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    let of_git = || {
        let words = ["rev-parse", "HEAD"];
        let out = Command::new("git").args(words).output().ok()?;
        out.status.success().then_some(out.stdout)
    };
    let found = std::fs::read(".release").ok().or_else(of_git);
    let found = found.unwrap_or_else(|| b"unknown".to_vec());
    let text = String::from_utf8_lossy(&found);
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(10)
        .collect()
}
