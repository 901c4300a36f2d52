# Licence: Apache-2.0
"""Tasks in a VM, over the channel between qx-node and the VM's quantix-kvm-agent."""

from __future__ import annotations

DOCUMENTATION = r"""
name: qx_node
short_description: Run tasks in virtual machines of a KVM host, over their guest channel
description:
  - Runs commands and moves files by C(qx-node exec), which reaches the C(quantix-kvm-agent) of a VM through a
    virtio-serial port. The VM needs neither a network nor an SSH server.
  - Where Ansible does not run on the KVM host itself, C(qx-node) is run there by C(ssh).
  - What is in the VM needs Python where Ansible's modules need it. C(raw) and C(script) need none.
  - A VM that is off, or whose agent does not answer, is unreachable. A command's own exit status is never taken for
    that of C(qx-node), whatever it is.
author:
  - The Quantix authors
version_added: 0.1.0
requirements:
  - qx-node, with its daemon, on the KVM host
  - quantix-kvm-agent in the VM
notes:
  - Whoever may talk to the daemon of C(qx-node) is root in every VM. See the option C(executable) for a host where
    you log in as somebody else.
  - There is no terminal. For C(become_method=su) that asks for a password, C(su) has to
    read it from its standard input, as that of util-linux does. As root, which is the default, none is asked for.
options:
  vm:
    description:
      - The VM's name, as C(qx-node vms) lists it.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_qx_node_vm
  remote_user:
    description:
      - The user in the VM as whom tasks run. There is no login, and no password is needed.
    type: str
    default: root
    cli:
      - name: user
        option: --user
    keyword:
      - name: remote_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    vars:
      - name: ansible_user
      - name: ansible_qx_node_user
  executable:
    description:
      - The program on the KVM host. Several words are a program and what stands in front of its arguments, as in
        C(sudo -n qx-node).
    type: str
    default: qx-node
    env:
      - name: ANSIBLE_QX_NODE_EXECUTABLE
    ini:
      - section: qx_node
        key: executable
    vars:
      - name: ansible_qx_node_executable
  control:
    description:
      - The daemon's control socket on the KVM host. If it is not set, C(qx-node) finds it itself.
    type: str
    default: ""
    env:
      - name: ANSIBLE_QX_NODE_CONTROL
    ini:
      - section: qx_node
        key: control
    vars:
      - name: ansible_qx_node_control
  kvm_host:
    description:
      - The KVM host of the VM, as C(ssh) takes it - a name, C(USER@HOST), C(ssh://USER@HOST:PORT), or a C(Host) of
        its configuration. If it is not set, C(qx-node) is run where Ansible runs.
    type: str
    default: ""
    env:
      - name: ANSIBLE_QX_NODE_KVM_HOST
    ini:
      - section: qx_node
        key: kvm_host
    vars:
      - name: ansible_qx_node_kvm_host
  ssh_executable:
    description:
      - The C(ssh) that is used with C(kvm_host).
    type: str
    default: ssh
    ini:
      - section: qx_node
        key: ssh_executable
    vars:
      - name: ansible_qx_node_ssh_executable
  ssh_args:
    description:
      - Its arguments. It never asks for anything, so the KVM host has to let you in by key or agent.
      - By default the VMs of a KVM host share one connection, which is given up when it says nothing for 45 seconds.
    type: str
    default: >-
      -o ServerAliveInterval=15 -o ControlMaster=auto -o ControlPersist=60s -o ControlPath=~/.ansible/cp/qx-%C
    env:
      - name: ANSIBLE_QX_NODE_SSH_ARGS
    ini:
      - section: qx_node
        key: ssh_args
    vars:
      - name: ansible_qx_node_ssh_args
  timeout:
    description:
      - So many seconds may pass until C(kvm_host) has answered, and until a become method has asked for its password.
      - A VM that does not answer is given up by C(qx-node) itself, after 5 seconds without a session and 10 seconds
        within one.
    type: int
    default: 10
    cli:
      - name: timeout
        option: --timeout
    env:
      - name: ANSIBLE_TIMEOUT
    ini:
      - section: defaults
        key: timeout
    vars:
      - name: ansible_qx_node_timeout
  command_timeout:
    description:
      - A command in the VM is killed after so many seconds, with all that it has started, and fails. 0 is never.
    type: int
    default: 0
    env:
      - name: ANSIBLE_QX_NODE_COMMAND_TIMEOUT
    ini:
      - section: qx_node
        key: command_timeout
    vars:
      - name: ansible_qx_node_command_timeout
  pipelining:
    description:
      - Modules go to Python by its standard input, not as files that are copied first. It costs a third, and nothing
        here speaks against it.
    type: bool
    default: true
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: connection
        key: pipelining
      - section: defaults
        key: pipelining
    vars:
      - name: ansible_pipelining
      - name: ansible_qx_node_pipelining
"""

EXAMPLES = r"""
# ansible.cfg
#   [defaults]
#   inventory = fleet.qx_node.yml
#
# Without the inventory plugin:
all:
  hosts:
    web1:
    db1:
      ansible_qx_node_kvm_host: root@kvm2.example.org
  vars:
    ansible_connection: quantix.kvm.qx_node
"""

import errno
import os
import secrets
import selectors
import shlex
import subprocess
import tempfile
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from ansible_collections.quantix.kvm.plugins.plugin_utils import qx_node as node

display = Display()

# Names of the superuser: what qx-node takes for granted when it is told no user.
ROOT = ("", "root", "0")

AT_ONCE = 64 * 1024


class Connection(ConnectionBase):
    """A VM, asked by a process of qx-node for each command."""

    transport = "quantix.kvm.qx_node"
    has_pipelining = True
    # What Ansible takes the user to be where none is named.
    default_user = "root"

    def _connect(self):
        # Each command makes its own connection to the daemon.
        self._connected = True
        return self

    def close(self):
        self._connected = False

    def reset(self):
        """Ends what is kept open to the KVM host."""
        host = self.get_option("kvm_host")
        if host:
            words = node.ssh(self, host, ["-O", "exit"])
            # That there was none is no fault.
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.close()
        self._connect()

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv("EXEC %s" % to_text(cmd), host=self._vm())
        become = self.become if sudoable and self.become and self.become.expect_prompt() else None
        # Without input a command outlives its agent: one that installs another agent comes to its end.
        with_input = bool(in_data) or become is not None
        return self._exec([to_text(cmd)], with_input, stdin=in_data or b"", become=become)

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        display.vvv("PUT %s TO %s" % (in_path, out_path), host=self._vm())
        try:
            source = open(to_bytes(in_path, errors="surrogate_or_strict"), "rb")
        except FileNotFoundError as e:
            raise AnsibleFileNotFound("there is no %s to copy" % to_text(in_path)) from e
        except OSError as e:
            raise AnsibleError("cannot read %s: %s" % (to_text(in_path), e)) from e
        with source:
            # It is nobody else's to read, until Ansible gives it the mode that it is to have.
            words = ["/bin/sh", "-c", 'umask 077 && exec cat >"$1"', "sh", to_text(out_path)]
            status, _out, err = self._exec(words, True, stdin=source)
        if status != 0:
            raise AnsibleError("cannot write %s in the VM: %s" % (to_text(out_path), _last(err)))

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        display.vvv("FETCH %s TO %s" % (in_path, out_path), host=self._vm())
        words = ["/bin/sh", "-c", 'exec cat <"$1"', "sh", to_text(in_path)]
        out_path = to_bytes(out_path, errors="surrogate_or_strict")
        # An interrupted copy must not pass for the file.
        with tempfile.NamedTemporaryFile(
            dir=os.path.dirname(out_path) or b".", prefix=b".qx-node-", delete=False
        ) as target:
            try:
                status, _out, err = self._exec(words, False, stdout=target)
                if status != 0:
                    raise AnsibleError("cannot read %s in the VM: %s" % (to_text(in_path), _last(err)))
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(target.fileno(), 0o666 & ~mask)
                os.replace(target.name, out_path)
            except BaseException:
                os.unlink(target.name)
                raise

    # -- how a command is run ------------------------------------------------------------------------

    def _vm(self):
        return self.get_option("vm")

    def _exec(self, command, with_input, stdin=b"", stdout=None, become=None):
        """Runs a command, in one word a line for the shell. Returns status, output and errors."""
        # The guest does not know this word, so nothing that it writes can pass for qx-node's own.
        outcome = "qx-node-%s" % secrets.token_hex(16)
        words = ["--outcome=" + outcome]
        user = self.get_option("remote_user") or ""
        if user not in ROOT:
            words.append("--user=" + user)
        limit = self.get_option("command_timeout")
        if limit:
            words.append("--timeout=%d" % limit)
        if with_input:
            words.append("-i")
        words += [node.vm(self._vm()), "--"] + command
        host = self.get_option("kvm_host")
        words = node.qx_node(self, host, "exec", words)
        for word in words:
            try:
                word.encode("utf-8")
            except UnicodeEncodeError as e:
                raise AnsibleError("not valid UTF-8, which the channel needs: %r" % word[-200:]) from e
        display.vvvv("RUN %s" % shlex.join(words), host=self._vm())
        try:
            process = Process(words, stdin if with_input else None, stdout)
        except OSError as e:
            if e.errno == errno.E2BIG:
                raise AnsibleError("the command is too long: copy it and run it there") from e
            raise AnsibleConnectionFailure("cannot run %s: %s" % (words[0], e)) from e
        try:
            if become is not None:
                process.unlock(become, self._play_context, self.get_option("timeout"))
            status, out, err = process.finish()
        finally:
            process.end()
        ended, whole, err = _outcome(outcome, err)
        if ended is not None and not whole:
            raise AnsibleConnectionFailure("the agent was restarted, and some of the command's output is lost")
        if ended is None:
            raise AnsibleConnectionFailure(self._trouble(host, status, err))
        return ended, out, err

    def _trouble(self, host, status, err):
        """What is said of a command that was not run, or was lost."""
        said = node.why(err)
        if host and status == 255:
            return "cannot reach the KVM host %s: %s" % (host, said or "ssh gives no reason")
        if host and status in (126, 127) and not said.startswith("qx-node: "):
            return "cannot run qx-node on the KVM host %s: %s" % (host, said)
        return said or "qx-node ended with status %d and gave no reason" % status


class Process:
    """A process of qx-node, whose streams are served as they come."""

    def __init__(self, words, stdin, stdout):
        """`stdin` is None, bytes, or a file; `stdout` a file, or None to keep it."""
        self.waiting = memoryview(b"")
        feed = subprocess.DEVNULL
        if isinstance(stdin, bytes):
            feed = subprocess.PIPE
            self.waiting = memoryview(stdin)
        elif stdin is not None:
            feed = stdin
        self.child = subprocess.Popen(
            words, stdin=feed, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.streams = selectors.DefaultSelector()
        self.kept = {}
        for pipe in (self.child.stdout, self.child.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self.streams.register(pipe, selectors.EVENT_READ)
                self.kept[pipe] = bytearray()
        if self.child.stdin is not None:
            os.set_blocking(self.child.stdin.fileno(), False)

    def unlock(self, become, context, seconds):
        """Answers a become method that asks for a password, and returns when it lets the command run."""
        password = become.get_option("become_pass", playcontext=context) or ""
        until = time.monotonic() + seconds
        asked = False
        while self.streams.get_map():
            # Only the last line of either can be a prompt that waits.
            for pipe, said in self.kept.items():
                if become.check_success(bytes(said)):
                    return
                if asked and become.check_incorrect_password(bytes(said)):
                    raise AnsibleError("Incorrect %s password" % become.name)
                if become.check_missing_password(bytes(said)):
                    raise AnsibleError("Missing %s password" % become.name)
                if become.check_password_prompt(bytes(said)):
                    if asked:
                        raise AnsibleError("Incorrect %s password" % become.name)
                    asked = True
                    # What the command writes begins behind it.
                    self.kept[pipe] = bytearray()
                    os.write(self.child.stdin.fileno(), to_bytes(password) + b"\n")
            left = until - time.monotonic()
            if left <= 0:
                raise AnsibleError("Timeout (%ds) waiting for privilege escalation prompt" % seconds)
            self._serve(left)

    def finish(self):
        """Sends the rest of the input, takes all that comes: status, output, errors."""
        feed = self.child.stdin
        if feed is not None:
            if self.waiting:
                self.streams.register(feed, selectors.EVENT_WRITE)
            else:
                feed.close()
        # A connection of ssh that is kept open for others may hold our pipes, so their end is not all that counts.
        while self.streams.get_map():
            over = self.child.poll() is not None
            if not self._serve(0 if over else 1) and over:
                break
        status = self.child.wait()
        out = self.kept.get(self.child.stdout, b"")
        return status, bytes(out), bytes(self.kept[self.child.stderr])

    def end(self):
        """Nothing of it is left."""
        self.streams.close()
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            if pipe is not None:
                pipe.close()

    def _serve(self, seconds):
        """Waits, and moves what can be moved. False: there was nothing."""
        ready = self.streams.select(seconds)
        for key, _events in ready:
            pipe = key.fileobj
            if pipe is self.child.stdin:
                self._feed(pipe)
                continue
            data = os.read(pipe.fileno(), AT_ONCE)
            if data:
                self.kept[pipe] += data
            else:
                self.streams.unregister(pipe)
        return bool(ready)

    def _feed(self, pipe):
        try:
            written = os.write(pipe.fileno(), self.waiting[:AT_ONCE])
            self.waiting = self.waiting[written:]
        except BrokenPipeError:
            # It wants no more; its status tells why.
            self.waiting = memoryview(b"")
        if not self.waiting:
            self.streams.unregister(pipe)
            pipe.close()


def _outcome(word, err):
    """The command's status, None if it has none; whether all of its output has come; its stderr."""
    mark = b"\n" + to_bytes(word) + b" "
    at = err.rfind(mark)
    end = err.find(b"\n", at + len(mark))
    if at < 0 or end < 0:
        return None, False, err
    how, *more = err[at + len(mark) : end].decode("ascii", "replace").split(" ")
    whole = more[-1:] != ["incomplete"]
    # Behind it may stand what ssh has to say.
    err = err[:at] + err[end + 1 :]
    if how == "timeout":
        return 124, whole, err
    if how not in ("exit", "signal") or not more or not more[0].isdigit():
        return None, False, err
    return int(more[0]) + (128 if how == "signal" else 0), whole, err


def _last(err):
    return to_text(err).strip()[-1000:] or "no reason was given"
