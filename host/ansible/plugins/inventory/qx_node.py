# Licence: Apache-2.0
"""The VMs of one or several KVM hosts, as `qx-node vms --json` lists them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: qx_node
short_description: The virtual machines that qx-node has a channel to
description:
  - Lists the VMs of a KVM host, or of several, by C(qx-node vms --json).
  - All are in the group C(qx_node), whose connection is C(quantix.kvm.qx_node). Each is in a group of its
    state, as C(qx_state_ready), of its system, as C(qx_os_debian_12), and with C(kvm_hosts) of its KVM host, as
    C(qx_host_kvm1).
  - The file's name ends in C(qx_node.yml) or C(qx_node.yaml).
  - What a guest says of itself is never taken for a template, and shortened where it is long. It can put itself into
    a group of C(qx_os_) and, by way of C(keyed_groups) and C(groups), into those that you make of its words. Let no
    secret depend on them.
author:
  - The Quantix authors
version_added: 0.1.0
requirements:
  - qx-node, with its daemon, on each KVM host
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: What this file is for.
    type: str
    required: true
    choices:
      - quantix.kvm.qx_node
  kvm_hosts:
    description:
      - The KVM hosts, each as C(ssh) takes it. With none, it is the one on which Ansible runs.
      - VMs of different KVM hosts that have the same name are an error, but with C(qualify).
    type: list
    elements: str
    default: []
  qualify:
    description:
      - VMs are called C(VM.HOST), with what stands in C(kvm_hosts) between C(@) and a port.
    type: bool
    default: false
  skip_unreachable:
    description:
      - A KVM host that does not answer is a warning, and its VMs are missing. Else it is an error, since a play that
        quietly leaves out some is not what was asked for.
    type: bool
    default: false
  states:
    description:
      - Only VMs in one of these states. C(absent) are those that are off or gone, which C(qx-node) remembers for a day,
        and which are left out by default. The others are there, also while their agent does not answer, so that a play
        names them as unreachable.
    type: list
    elements: str
    choices: [ready, stalled, waiting_for_agent, queued, connecting, absent]
    default: [ready, stalled, waiting_for_agent, queued, connecting]
  executable:
    description: As in the connection plugin.
    type: str
    default: qx-node
    env:
      - name: ANSIBLE_QX_NODE_EXECUTABLE
    ini:
      - section: qx_node
        key: executable
  control:
    description: As in the connection plugin.
    type: str
    default: ""
    env:
      - name: ANSIBLE_QX_NODE_CONTROL
    ini:
      - section: qx_node
        key: control
  ssh_executable:
    description: As in the connection plugin.
    type: str
    default: ssh
    ini:
      - section: qx_node
        key: ssh_executable
  ssh_args:
    description: As in the connection plugin.
    type: str
    default: >-
      -o ServerAliveInterval=15 -o ControlMaster=auto -o ControlPersist=60s -o ControlPath=~/.ansible/cp/qx-%C
    env:
      - name: ANSIBLE_QX_NODE_SSH_ARGS
    ini:
      - section: qx_node
        key: ssh_args
  timeout:
    description: Each KVM host has to have answered after so many seconds.
    type: int
    default: 30
"""

EXAMPLES = r"""
# fleet.qx_node.yml: what runs on this machine
plugin: quantix.kvm.qx_node

---
# What runs on two others, where qx-node is run by root
plugin: quantix.kvm.qx_node
kvm_hosts:
  - admin@kvm1.example.org
  - admin@kvm2.example.org
executable: sudo -n qx-node
states: [ready]
keyed_groups:
  - key: qx_architecture
    prefix: arch
groups:
  web: inventory_hostname.startswith("web")
compose:
  backup_to: qx_kvm_host
"""

import json
import re
import subprocess

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.quantix.kvm.plugins.plugin_utils import qx_node as node

# What a guest says of itself is cut to this: characters of a text, and items of a list.
TEXT = 255
ITEMS = 64

# Options of the connection, which are the same for all of an inventory.
PASSED_ON = ("executable", "control", "ssh_executable", "ssh_args")

GROUP = "qx_node"


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Hosts are VMs."""

    NAME = "quantix.kvm.qx_node"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("qx_node.yml", "qx_node.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        from_cache = cache and self.get_option("cache")
        found = None
        if from_cache:
            found = self._cache.get(key)
        if found is None:
            found = self._ask_all()
            if self.get_option("cache"):
                self._cache[key] = found
        self._fill(found)

    # -- what there is -------------------------------------------------------------------------------

    def _ask_all(self):
        """Each KVM host with its VMs. The one that Ansible runs on is called ""."""
        found = []
        for host in self.get_option("kvm_hosts") or [""]:
            try:
                found.append([host, self._ask(host)])
            except AnsibleError as e:
                if not self.get_option("skip_unreachable"):
                    raise
                self.display.warning("%s: its VMs are missing" % e.message)
        return found

    def _ask(self, host):
        words = node.qx_node(self, host, "vms", ["--json"])
        where = "on %s" % host if host else "here"
        try:
            asked = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.get_option("timeout"),
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise AnsibleParserError("qx-node vms %s: no answer in %d s" % (where, e.timeout)) from e
        except OSError as e:
            raise AnsibleParserError("cannot run %s: %s" % (words[0], e)) from e
        if asked.returncode != 0:
            said = node.why(asked.stderr) or "ended with status %d" % asked.returncode
            raise AnsibleParserError("qx-node vms %s: %s" % (where, said))
        try:
            vms = json.loads(asked.stdout.decode("utf-8"))
            return [_facts(vm, host) for vm in vms]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise AnsibleParserError("qx-node vms %s: not a list of VMs: %s" % (where, e)) from e

    # -- what becomes of it --------------------------------------------------------------------------

    def _fill(self, found):
        self.inventory.add_group(GROUP)
        self.inventory.set_variable(GROUP, "ansible_connection", self.NAME)
        for option in PASSED_ON:
            self.inventory.set_variable(GROUP, "ansible_qx_node_" + option, self.get_option(option))
        owner = {}
        for host, vms in found:
            for facts in vms:
                if facts["qx_state"] not in self.get_option("states"):
                    continue
                name = facts["qx_vm"]
                # It is the name of a file that somebody has made, and a host's name goes through templates.
                if re.search(r"\{[{%#]", name) or name.startswith("-"):
                    self.display.warning("%r: no name for a host, the VM is left out" % name)
                    continue
                if self.get_option("qualify") and host:
                    name += "." + _short(host)
                if name in owner:
                    raise AnsibleParserError(
                        "two VMs are named %s, on %s and on %s: set qualify to tell them apart"
                        % (name, owner[name], host)
                    )
                owner[name] = host
                self._add(name, host, facts)

    def _add(self, name, host, facts):
        self.inventory.add_host(name, group=GROUP)
        facts = {key: wrap_var(value) for key, value in facts.items()}
        facts["ansible_qx_node_vm"] = facts["qx_vm"]
        if host:
            facts["ansible_qx_node_kvm_host"] = host
        for key, value in facts.items():
            self.inventory.set_variable(name, key, value)
        self._join("qx_state_" + facts["qx_state"], name)
        if facts["qx_os_name"]:
            system = "%s_%s" % (facts["qx_os_name"], facts["qx_os_version"])
            self._join("qx_os_" + system, name)
        if host:
            self._join("qx_host_" + _short(host), name)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), facts, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), facts, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), facts, name, strict=strict)

    def _join(self, group, name):
        group = re.sub(r"[^a-z0-9]+", "_", group.lower()).strip("_")[:TEXT]
        self.inventory.add_group(group)
        self.inventory.add_host(name, group=group)


def _short(host):
    """The name in what ssh takes for a host."""
    if host.startswith("ssh://"):
        host = re.sub(r":\d+$", "", host[len("ssh://") :])
    return host.rpartition("@")[2]


def _facts(vm, host):
    """What a play may want to know of a VM, under names that say where it comes from."""
    agent = vm.get("agent") or {}
    behind = vm.get("behind") or {}
    facts = {
        "qx_vm": vm["vm"],
        "qx_state": vm["state"].replace(" ", "_"),
        "qx_reason": vm.get("reason"),
        "qx_ills": vm.get("ills"),
        "qx_behind": behind.get("command"),
        "qx_kvm_host": host,
        "qx_boot_id": vm.get("boot_id"),
        "qx_uptime_seconds": vm.get("uptime_seconds"),
        "qx_agent_version": agent.get("version"),
        "qx_os_name": agent.get("os_name"),
        "qx_os_version": agent.get("os_version"),
        "qx_kernel": agent.get("kernel_version"),
        "qx_architecture": agent.get("architecture"),
        "qx_hostname": agent.get("hostname"),
        "qx_address": agent.get("primary_address"),
        "qx_addresses": agent.get("ip_addresses"),
        "qx_frozen": agent.get("frozen"),
    }
    return {key: value if key == "qx_vm" else _bounded(value) for key, value in facts.items()}


def _bounded(value):
    """Nothing is an empty text, and a guest's words are no more than that."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:TEXT]
    if isinstance(value, list):
        return [str(item)[:TEXT] for item in value[:ITEMS]]
    return value if isinstance(value, (bool, int)) else str(value)[:TEXT]
