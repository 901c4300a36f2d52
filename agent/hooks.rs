//! Programs of the guest's operator that are called on an occasion: each file of a directory that can be
//! executed, in the order of the names, with the occasion as its argument.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quantix::message::agent::Hook;
use quantix::rt::clock;
use quantix::rt::tool::Tool;
use quantix::time::Time;

/// One may take so long; then it is killed with its process group.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hooks that are called; of more the names tell that something else has written them.
const MAX_HOOKS: usize = 16;

/// Bytes of a hook's output that are in the answer: for all, called twice, less than a frame.
const MAX_OUTPUT: usize = 2 * 1024;

/// The hooks there are.
///
/// # Errors
/// For people: more than can be, or one that somebody else than root can change.
pub fn find(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_name(&entry.file_name().to_string_lossy())
            && let Ok(file) = fs::metadata(&path)
            && file.is_file()
            && file.permissions().mode() & 0o111 != 0
        {
            if file.uid() != 0 || file.permissions().mode() & 0o022 != 0 {
                let path = path.display();
                return Err(format!(
                    "{path}: others than root may change it; chown root, chmod go-w"
                ));
            }
            found.push(path);
        }
    }
    if found.len() > MAX_HOOKS {
        let (path, count) = (directory.display(), found.len());
        return Err(format!(
            "{path}: {count} hooks, of which {MAX_HOOKS} may be"
        ));
    }
    found.sort();
    Ok(found)
}

/// What run-parts(8) would run, and not what editors and packages leave behind.
fn is_name(name: &str) -> bool {
    let is_left = name.contains(".dpkg-") || name.contains(".rpm");
    !name.starts_with('.') && !name.ends_with('~') && !is_left
}

/// Calls one. It has its own time, and no more than is left until `end`.
pub fn call(hook: &Path, argument: &str, end: Time) -> Hook {
    let begun = clock::now();
    let left = end.since(begun).max(Duration::from_secs(1));
    let path = hook.to_string_lossy();
    let name = hook.file_name().unwrap_or_default().to_string_lossy();
    let args = [argument];
    let mut tool = Tool::new(&path, &args, PATIENCE.min(left));
    tool.merged = true;
    tool.limit = MAX_OUTPUT;
    let mut called = Hook {
        name: name.into_owned(),
        argument: argument.to_owned(),
        ..Default::default()
    };
    match tool.run() {
        Ok(said) => {
            called.timed_out = said.ended.is_none();
            called.exit_code = said
                .ended
                .map_or(128 + libc::SIGKILL, |ended| ended.shell_status());
            called.output = said.output;
        }
        Err(e) => {
            called.exit_code = 126;
            called.output = quantix::error::system_text(&e).into_bytes();
        }
    }
    let span = clock::now().since(begun).as_millis();
    called.duration_ms = u64::try_from(span).unwrap_or(u64::MAX);
    called
}

/// In words, if it was no success.
pub fn failure(called: &Hook) -> Option<String> {
    let Hook { name, argument, .. } = called;
    if called.timed_out {
        return Some(format!(
            "hook {name} {argument} did not end in time, and was killed"
        ));
    }
    let status = called.exit_code;
    (status != 0).then(|| format!("hook {name} {argument} failed with status {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_files_of_root_are_hooks_in_the_order_of_their_names() {
        let directory = std::env::temp_dir().join(format!("qx-hooks-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let make = |name: &str, mode: u32| {
            let path = directory.join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in [
            ("20-mysql", 0o755),
            ("10-postgres", 0o700),
            ("30-off", 0o644),
            (".hidden", 0o755),
            ("40-old~", 0o755),
            ("50.dpkg-old", 0o755),
            ("60.rpmsave", 0o755),
        ] {
            make(name, mode);
        }
        fs::create_dir(directory.join("70-directory")).unwrap();
        let found = find(&directory).unwrap();
        assert_eq!(
            found,
            [directory.join("10-postgres"), directory.join("20-mysql")]
        );
        make("80-open", 0o775);
        assert!(
            find(&directory)
                .unwrap_err()
                .contains("80-open: others than root")
        );
        fs::remove_file(directory.join("80-open")).unwrap();
        for number in 0..MAX_HOOKS {
            make(&format!("9{number}"), 0o755);
        }
        assert!(
            find(&directory)
                .unwrap_err()
                .contains("18 hooks, of which 16")
        );
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(find(&directory), Ok(Vec::new()));
    }
}
