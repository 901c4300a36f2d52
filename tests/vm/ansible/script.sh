#!/bin/sh
# For the tests of Ansible: tells its arguments, and that it has run.
printf '<%s>\n' "$@"
id -un >/srv/script 2>/dev/null || id -un
