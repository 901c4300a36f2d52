//! What of a guest's interfaces and mounts is its own: not those of its containers, nor what no disk is behind.

/// Begin the names of interfaces that container engines and hypervisors make, and of those that nothing leaves by.
const MADE: [&str; 21] = [
    "veth",
    "docker",
    "br-",
    "virbr",
    "vnet",
    "tap",
    "cali",
    "cni",
    "flannel",
    "cilium",
    "lxc",
    "lxd",
    "podman",
    "kube",
    "nodelocaldns",
    "weave",
    "antrea",
    "genev",
    "vxlan",
    "dummy",
    "ifb",
];

/// The interface is one of the guest itself, by its name.
pub fn interface(name: &str) -> bool {
    name != "lo" && !MADE.iter().any(|made| name.starts_with(made))
}

/// File systems that are made of others, or of no disk.
const PSEUDO: [&str; 12] = [
    "tmpfs", "devtmpfs", "overlay", "squashfs", "ramfs", "proc", "sysfs", "cgroup2", "autofs",
    "nsfs", "iso9660", "erofs",
];

/// The mount is storage of the guest, by its file system and its place.
pub fn mount(filesystem: &str, mount_point: &str) -> bool {
    let of_containers = [
        "/var/lib/docker/",
        "/var/lib/containers/",
        "/var/lib/kubelet/",
        "/run/",
        "/snap/",
    ];
    !PSEUDO.contains(&filesystem)
        && !of_containers
            .iter()
            .any(|place| mount_point.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containers_have_is_not_the_guests_own() {
        for name in [
            "eth0", "ens3", "enp1s0", "bond0", "br0", "wg0", "lo0", "login", "team0",
        ] {
            assert!(interface(name), "{name}");
        }
        for name in [
            "lo", "veth1a2b", "docker0", "br-9f", "cali123", "lxcbr0", "virbr0", "tap0",
        ] {
            assert!(!interface(name), "{name}");
        }
        assert!(mount("ext4", "/") && mount("xfs", "/var/lib/dockerish") && mount("nfs4", "/srv"));
        assert!(
            !mount("overlay", "/x")
                && !mount("ext4", "/var/lib/docker/volumes/x")
                && !mount("tmpfs", "/tmp")
        );
    }
}
