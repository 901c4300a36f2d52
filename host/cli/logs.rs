//! `qx-node logs`: the last lines of a service's log, by a script that runs in the guest: from the journal,
//! else from the files in which services and syslog daemons write.

use quantix::message::{Body, agent};
use quantix::rt::random;
use serde_json::json;

use super::client::unexpected;
use super::live::{self, Asked, Input, Life, Output};
use super::options::Typed;
use super::render::plain_bytes;
use super::run::print_json;
use super::services::checked;
use super::{Trouble, client, vm};

/// Lines, unless it is said how many.
const LINES: u32 = 20;

/// Its arguments are the service, how many lines, and whether to follow. The name is one of `rt::unit`, so that
/// it is no option, path or pattern, and is never read as a part of the script.
const SCRIPT: &str = r#"
name=$1 lines=$2 follow=$3 looked=
base=${name%.service}
if [ -d /run/systemd/system ] && command -v journalctl >/dev/null 2>&1; then
    if [ -n "$(journalctl --no-pager -q -n 1 -u "$name" 2>/dev/null)" ]; then
        exec journalctl --no-pager -q -n "$lines" ${follow:+-f} -u "$name"
    fi
    looked="the journal, "
fi
set --
for file in "/var/log/$base.log" "/var/log/$base/"*.log; do
    [ ! -f "$file" ] || set -- "$@" "$file"
done
if [ $# -gt 0 ]; then
    exec tail -n "$lines" ${follow:+-F} "$@"
fi
for file in /var/log/syslog /var/log/messages /var/log/daemon.log; do
    if grep -qF -e " $base[" -e " $base:" "$file" 2>/dev/null; then
        count=$(wc -l <"$file")
        head -n "$count" "$file" | grep -F -e " $base[" -e " $base:" | tail -n "$lines"
        [ -n "$follow" ] || exit 0
        tail -n "+$((count + 1))" -F "$file" | while IFS= read -r line; do
            case $line in
                *" $base["* | *" $base:"*) printf '%s\n' "$line" ;;
            esac
        done
        exit 0
    fi
done
echo "$name has no log: neither in ${looked}/var/log/$base.log and /var/log/$base/*.log" \
    "nor a line in syslog, messages or daemon.log of /var/log" >&2
exit 1
"#;

/// `qx-node logs`
pub fn logs(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 1)?;
    let service = match words {
        [service] => checked(service)?,
        _ => return Err(unexpected()),
    };
    let lines = typed.number("lines").map_err(Trouble::Usage)?;
    let (follow, is_json) = (typed.has("follow"), typed.has("json"));
    if follow && is_json {
        let why = "--json shows what there is; it cannot --follow";
        return Err(Trouble::Usage(why.to_owned()));
    }
    let lines = lines.unwrap_or(LINES).to_string();
    let follow = if follow { "yes" } else { "" };
    let token = format!("{:016x}", random::number());
    let args = ["-c", SCRIPT, "logs", service, &lines, follow];
    let request = agent::Execute {
        command: "/bin/sh".to_owned(),
        args: args.map(str::to_owned).to_vec(),
        working_directory: "/".to_owned(),
        wait_for_exit: true,
        stream_output: true,
        token: token.clone(),
        ..Default::default()
    };
    let asked = Asked {
        vm: name,
        request: Body::Execute(request),
        input: Input::None,
        output: match is_json {
            true => Output::Kept,
            false => Output::Escaped,
        },
        life: Life::Found(token),
        from: [0, 0],
    };
    let answer = live::run(&|| client(typed), asked)?;
    if is_json && answer.exit_code == 0 {
        let lines = answer.stdout.split(|byte| *byte == b'\n');
        let mut lines: Vec<String> = lines
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        // What is behind the last line is none.
        lines.pop_if(|line| line.is_empty());
        return print_json(&json!({
            "vm": name,
            "service": service,
            "lines": lines,
            "truncated": answer.truncated,
        }));
    }
    if is_json {
        let why = plain_bytes(answer.stderr.trim_ascii_end());
        return Err(Trouble::Local(why));
    }
    Ok(u8::try_from(answer.exit_code).unwrap_or(1))
}
