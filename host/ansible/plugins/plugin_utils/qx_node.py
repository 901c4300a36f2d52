# Licence: Apache-2.0
"""How qx-node is called: here, or on a KVM host through ssh. What both plugins need."""

from __future__ import annotations

import os
import shlex

from ansible.errors import AnsibleError


def _word(what, value):
    """A word that nothing takes for an option."""
    if not value or value.startswith("-") or "\0" in value:
        raise AnsibleError("%s cannot be %r" % (what, value))
    return value


def qx_node(plugin, host, command, words):
    """The words of `qx-node COMMAND WORDS...`, for a process. Without a host it runs here."""
    here = shlex.split(plugin.get_option("executable"))
    if not here:
        raise AnsibleError("the option executable names no program")
    here.append(command)
    control = plugin.get_option("control")
    if control:
        here.append("--control=" + control)
    here += words
    if not host:
        return here
    return ssh(plugin, host, ["-T"]) + [shlex.join(here)]


def ssh(plugin, host, options):
    """The words of ssh to this host, up to what is to be done there."""
    there = [plugin.get_option("ssh_executable")]
    there += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=%d" % plugin.get_option("timeout")]
    args = shlex.split(plugin.get_option("ssh_args"))
    if any("ControlPath" in word for word in args):
        # ssh does not make it. Others must not be able to get at the sockets in it.
        os.makedirs(os.path.expanduser("~/.ansible/cp"), mode=0o700, exist_ok=True)
    return there + args + options + ["--", _word("a KVM host", host)]


def vm(name):
    """A VM's name, as qx-node takes it among its words."""
    return _word("the name of a VM", name)


def why(stderr):
    """What qx-node, or ssh, has to say of a failure: its last lines."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    ours = [line for line in lines if line.startswith("qx-node: ")]
    return "\n".join(ours[-1:] or lines[-3:])[-1000:]
