# What `qx-node install` has a guest run, as a command that is kept: it outlives the agent that it replaces, and what
# becomes of it does not depend on the host. Any sh will do, and what the smallest images have.
#
#   usage: sh -c SCRIPT install KIND FILE SHA256 SECONDS TOKEN
#
#   KIND     deb, rpm or binary
#   FILE     what is to be installed; it goes, whatever comes of it
#   SECONDS  so long the new agent has to let the host in, which writes TOKEN into $run/confirmed
#
# $run/TOKEN says how far it is, for the host: one line, `WORD TEXT`. The words are going, waiting, and at the end
# installed, refused (nothing was changed), undone (the old agent is back) and broken.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH DEBIAN_FRONTEND=noninteractive
kind=$1 file=$2 sum=$3 limit=$4 token=$5
run=/run/quantix-kvm/install
home=${file%/*}
log=$run/$token.log
umask 077
mkdir -p "$run"
find "$run" -type f -mtime +0 -exec rm -f {} +

say() { printf '%s\n' "$*" >"$run/$token.new" && mv "$run/$token.new" "$run/$token"; }
finish() {
    say "$@"
    rm -f "$file" "$log"
    rm -rf "$run/lock"
    exit 0
}
# What says why stands first, if there is such a line.
last_words() { { grep -i -m 1 error "$log" || grep -v '^ *$' "$log" | tail -n 3; } | tr '\n' ' '; }

# One at a time. One that was killed has left its number.
until mkdir "$run/lock" 2>/dev/null; do
    # It may not have come to that yet.
    [ -s "$run/lock/pid" ] || sleep 1
    other=$(cat "$run/lock/pid" 2>/dev/null)
    if [ -n "$other" ] && grep -qs "qx-node install" "/proc/$other/cmdline"; then
        say "refused another installation is on its way"
        rm -f "$file"
        exit 0
    fi
    rm -rf "$run/lock"
done
echo $$ >"$run/lock/pid"
say "going"

# The agent: whom we are a command of.
agent=$$
while [ "$agent" -gt 1 ] && [ "$(cat "/proc/$agent/comm")" != quantix-kvm-age ]; do
    agent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$agent/status")
done
[ "$agent" -gt 1 ] || finish "refused the agent is not to be found: it was restarted meanwhile"
program=$(readlink "/proc/$agent/exe")
program=${program%" (deleted)"}
before=$("$program" --version 2>/dev/null | sed 's/^[^ ]* \([^ ]*\).*/\1/')
arguments=$(tr '\0' '\n' <"/proc/$agent/cmdline" | sed 1d)
if [ -d /run/systemd/system ] && systemctl --quiet is-active quantix-kvm-agent.service; then
    manager=systemd
elif [ -e /run/openrc/softlevel ] && rc-service quantix-kvm-agent status >/dev/null 2>&1; then
    manager=openrc
else
    # By its inittab, or by whatever keeps it; or nobody does.
    manager=init
fi

found=$(sha256sum "$file" 2>"$log") || finish "refused sha256sum: $(last_words)"
[ "${found%% *}" = "$sum" ] || finish "refused what has arrived has another checksum: ${found%% *}"

# Whatever happens to its file, this is what runs.
{ cp "/proc/$agent/exe" "$home/old.new" && sync && mv "$home/old.new" "$home/old"; } 2>"$log" ||
    finish "refused the old agent cannot be kept: $(last_words)"

# All that run this program, but for what they have forked.
agents() {
    # shellcheck disable=SC2013 # paths without blanks
    for comm in $(grep -ls '^quantix-kvm-age$' /proc/[0-9]*/comm); do
        pid=${comm#/proc/} pid=${pid%/comm}
        parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
        grep -qs '^quantix-kvm-age$' "/proc/${parent:-0}/comm" || echo "$pid"
    done
}

# One agent ends, and another begins. Nobody waits here for it to be well.
restart() {
    ending=$(agents)
    # shellcheck disable=SC2086 # numbers
    case $manager in
        systemd) systemctl --no-block restart quantix-kvm-agent.service ;;
        openrc) rc-service quantix-kvm-agent restart ;;
        init) [ -z "$ending" ] || kill $ending ;;
    esac >>"$log" 2>&1
    turns=10
    while [ $turns -gt 0 ]; do
        sleep 1
        turns=$((turns - 1))
        now=$(agents)
        case $now in "" | "$ending") continue ;; esac
        return 0
    done
    # shellcheck disable=SC2086 # words
    [ -n "$now" ] || setsid "$program" $arguments </dev/null >/dev/null 2>&1 &
}

# A program takes its place in one step.
place() {
    if ! { cp "$1" "$program.new" && chmod 755 "$program.new" && sync; }; then
        rm -f "$program.new"
        return 1
    fi
    # Where SELinux is, as what runs there had it.
    chcon --reference="$program" "$program.new" 2>/dev/null
    mv "$program.new" "$program" && sync
}

put() {
    case $kind in
        deb) dpkg --force-confold --install "$1" ;;
        rpm) rpm -U --oldpackage --replacepkgs "$1" ;;
    esac </dev/null >"$log" 2>&1
}

case $kind in
    binary)
        chmod 700 "$file"
        "$file" --version >"$log" 2>&1 || finish "refused it does not run in this guest: $(last_words)"
        place "$file" 2>"$log" || finish "refused $(last_words)"
        ;;
    *)
        put "$file" || {
            why=$(last_words)
            # Perhaps a half of it is there.
            if cmp -s "$home/old" "$program"; then finish "refused $why"; fi
            place "$home/old"
            restart
            finish "undone $why"
        }
        ;;
esac

# A package may have done so.
case " $(agents | tr '\n' ' ')" in *" $agent "*) restart ;; esac
say "waiting"
seconds=$limit
while [ "$seconds" -gt 0 ]; do
    if [ "$(cat "$run/confirmed" 2>/dev/null)" = "$token" ]; then
        # What the next installation goes back to, if nobody else has changed the agent until then.
        rm -f "$home/kept.deb" "$home/kept.rpm"
        [ "$kind" = binary ] || mv "$file" "$home/kept.$kind"
        sha256sum <"$program" >"$home/kept.sum"
        finish "installed $before"
    fi
    sleep 1
    seconds=$((seconds - 1))
done

# It has not come, or has let nobody in.
note=''
is_kept() {
    [ -f "$home/kept.$kind" ] && [ "$(sha256sum <"$home/old")" = "$(cat "$home/kept.sum")" ]
}
if is_kept && put "$home/kept.$kind"; then
    :
elif place "$home/old" 2>"$log"; then
    [ "$kind" = binary ] || note="; the database of packages has the new one"
else
    finish "broken the old agent cannot be put back: $(last_words)"
fi
cmp -s "$home/old" "/proc/$(agents | head -n 1)/exe" || restart
finish "undone the new agent let nobody in within $limit s$note"
