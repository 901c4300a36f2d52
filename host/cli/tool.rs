//! Other programs, waited for no longer than is said.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quantix::rt::clock;
use quantix::rt::sys::fd::{Wait, set_nonblocking, wait};

/// Bytes of output that are read; more is another program than we think.
const MAX_OUTPUT: usize = 16 << 20;

/// Runs it with this as stdin, and returns what it wrote to stdout.
///
/// # Errors
/// It cannot be started, or failed: then with the last line of its stderr. TimedOut.
pub fn run(command: &mut Command, input: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = talk(&mut child, input, patience);
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let [stdout, stderr] = output?;
    if status.success() {
        return Ok(stdout);
    }
    let text = String::from_utf8_lossy(&stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    Err(io::Error::other(
        line.unwrap_or("it failed").trim().to_owned(),
    ))
}

/// What it writes to stdout and to stderr, until it has closed both.
fn talk(child: &mut Child, mut input: &[u8], patience: Duration) -> io::Result<[Vec<u8>; 2]> {
    let stdout = child
        .stdout
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut stdin = child
        .stdin
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    if let Some(stdin) = &stdin {
        set_nonblocking(stdin)?;
    }
    let mut pipes = [stdout, stderr];
    let mut output = [Vec::new(), Vec::new()];
    let end = clock::now() + patience;
    let mut buffer = [0; 64 * 1024];
    while pipes.iter().any(Option::is_some) {
        let left = end.since(clock::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stdin.take_if(|_| input.is_empty());
        let [out, err] = pipes.each_ref().map(|pipe| Wait::read_any(pipe.as_ref()));
        let mut waits = [out, err, Wait::write_any(stdin.as_ref())];
        wait(&mut waits, Some(left))?;
        let [out, err, takes] = waits.map(|wait| wait.is_ready());
        if let Some(file) = stdin.as_mut().filter(|_| takes) {
            match file.write(input) {
                Ok(n) => input = &input[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // It wants no more.
                Err(_) => input = &[],
            }
        }
        let ready = [out, err];
        for ((pipe, output), _) in pipes.iter_mut().zip(&mut output).zip(ready).filter(|r| r.1) {
            let Some(file) = pipe else { continue };
            match file.read(&mut buffer) {
                Ok(0) => *pipe = None,
                Ok(n) if output.len() + n <= MAX_OUTPUT => output.extend(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) => return Err(ErrorKind::FileTooLarge.into()),
                Err(e) => return Err(e),
            }
        }
    }
    Ok(output)
}

/// This program, for another command of its own.
pub fn own() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| "qx-node".into()))
}

/// How long libvirt may take.
const VIRSH_PATIENCE: Duration = Duration::from_secs(5);

/// Runs virsh(1) on the system's libvirt, or on the one that the environment names.
///
/// # Errors
/// In words for people: it is not installed, does not answer, or what it says.
pub fn virsh(words: &[&str], input: &[u8]) -> Result<String, String> {
    let mut virsh = Command::new("virsh");
    virsh.arg("--quiet").env("LC_ALL", "C");
    // Whoever is not root would get a libvirt of his own.
    if std::env::var_os("LIBVIRT_DEFAULT_URI").is_none() {
        virsh.args(["--connect", "qemu:///system"]);
    }
    let said = run(virsh.args(words), input, VIRSH_PATIENCE);
    said.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => "virsh is not installed".to_owned(),
            ErrorKind::TimedOut => "libvirt does not answer".to_owned(),
            _ => format!("virsh: {}", e.to_string().trim_start_matches("error: ")),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]);
        shell
    }

    #[test]
    fn output_failure_and_silence_are_told_apart() {
        let long = Duration::from_secs(60);
        let said = run(&mut shell("echo out; echo err >&2"), b"", long).unwrap();
        assert_eq!(said, b"out\n");
        let failed = run(
            &mut shell("echo first >&2; echo error: why >&2; exit 3"),
            b"",
            long,
        );
        assert_eq!(failed.unwrap_err().to_string(), "error: why");
        let silent = run(
            &mut shell("exec sleep 1000"),
            b"",
            Duration::from_millis(50),
        );
        assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut);
        let none = run(&mut Command::new("/no/such/program"), b"", long);
        assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
        // More than a pipe holds on both.
        let much = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero";
        assert_eq!(run(&mut shell(much), b"", long).unwrap().len(), 300_000);
        let input = vec![7; 1 << 20];
        assert!(run(&mut shell("cat"), &input, long).unwrap() == input);
        // It need not read all.
        assert_eq!(run(&mut shell("head -c 1"), &input, long).unwrap(), [7]);
    }
}
