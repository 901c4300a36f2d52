//! What a guest has: users, services, disks, network, names.

use quantix::message::agent::{
    AddressScope, AuthorizedKeys, AuthorizedKeysResponse, BlockDevice, DefaultRoute,
    GetFreezeStatus, GetNetwork, GetStorage, Interface, InterfaceKind, KeysAction,
    KillProcessResponse, LinkState, ListServices, ListUsers, LoggedIn, NameReport, Network,
    NetworkAddress, NetworkInterface, Service, ServiceList, ServiceState, SetName,
    SetPasswordResponse, Storage, Timestamp, UserList,
};
use quantix::message::{Body, message};

use super::{Golden, REQUEST, sealed};

const KEY: &[u8] = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== alice@desk";

/// Requests, each with its answer.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn all() -> Vec<Golden> {
    let bodies = vec![
        (
            "list_users",
            "Host to guest: who is logged in, from the first.",
            Body::ListUsers(ListUsers { after: 0 }),
        ),
        (
            "user_list",
            "Guest to host: one, by SSH.",
            Body::UserList(UserList {
                users: vec![LoggedIn {
                    name: "alice".into(),
                    terminal: "pts/0".into(),
                    host: "192.0.2.7".into(),
                    since: Some(Timestamp {
                        seconds: 1_795_382_405,
                        nanos: 0,
                    }),
                    pid: 812,
                }],
                more: false,
            }),
        ),
        (
            "authorized_keys",
            "Host to guest: lets a key log in as alice.",
            Body::AuthorizedKeys(AuthorizedKeys {
                user: "alice".into(),
                action: KeysAction::Add.into(),
                keys: vec![KEY.to_vec()],
                after: 0,
            }),
        ),
        (
            "authorized_keys_response",
            "Guest to host: it is the only one.",
            Body::AuthorizedKeysResponse(AuthorizedKeysResponse {
                text: [KEY, b"\n"].concat(),
                added: 1,
                file: "/home/alice/.ssh/authorized_keys".into(),
                ..Default::default()
            }),
        ),
        (
            "set_password_response",
            "Guest to host: it is set.",
            Body::SetPasswordResponse(SetPasswordResponse::default()),
        ),
        (
            "kill_process_response",
            "Guest to host: the signal was sent.",
            Body::KillProcessResponse(KillProcessResponse::default()),
        ),
        (
            "get_freeze_status",
            "Host to guest: what is frozen?",
            Body::GetFreezeStatus(GetFreezeStatus::default()),
        ),
        (
            "list_services",
            "Host to guest: those behind cron.service.",
            Body::ListServices(ListServices {
                after: "cron.service".into(),
            }),
        ),
        (
            "service_list",
            "Guest to host: one, and others follow.",
            Body::ServiceList(ServiceList {
                manager: "systemd".into(),
                services: vec![Service {
                    name: "ssh.service".into(),
                    state: ServiceState::Started.into(),
                    detail: "active (running)".into(),
                    enabled: "enabled".into(),
                    description: "OpenBSD Secure Shell server".into(),
                }],
                more: true,
            }),
        ),
        (
            "get_storage",
            "Host to guest: which disks it has.",
            Body::GetStorage(GetStorage {}),
        ),
        (
            "storage",
            "Guest to host: a disk of 20 GiB with one partition.",
            Body::Storage(Storage {
                devices: vec![
                    BlockDevice {
                        name: "vda".into(),
                        size: 20 << 30,
                        serial: "root".into(),
                        address: "0000:00:04.0".into(),
                        discards: true,
                        ..Default::default()
                    },
                    BlockDevice {
                        name: "vda1".into(),
                        size: (20 << 30) - (1 << 20),
                        parent: "vda".into(),
                        ..Default::default()
                    },
                ],
            }),
        ),
        (
            "get_network",
            "Host to guest: its interfaces behind the first, those of containers too.",
            Body::GetNetwork(GetNetwork {
                after: 1,
                all: true,
            }),
        ),
        (
            "network",
            "Guest to host: a card with two addresses.",
            network(),
        ),
        (
            "set_name",
            "Host to guest: what it is called, and where it is.",
            Body::SetName(SetName {
                hostname: "web1.example.org".into(),
                timezone: "Europe/Berlin".into(),
            }),
        ),
        (
            "name_report",
            "Guest to host: it is called so now.",
            Body::NameReport(NameReport {
                hostname: "web1.example.org".into(),
                static_hostname: "web1.example.org".into(),
                timezone: "Europe/Berlin".into(),
                utc_offset_seconds: 3600,
            }),
        ),
    ];
    let number = |about: &str| if about.starts_with("Host") { 5 } else { 6 };
    bodies
        .into_iter()
        .map(|(file, about, body)| sealed(file, about, number(about), message(REQUEST, body)))
        .collect()
}

fn network() -> Body {
    let link = Interface {
        name: "eth0".into(),
        mac: "52:54:00:12:34:56".into(),
        state: LinkState::Up.into(),
        mtu: 1500,
        ..Default::default()
    };
    let address = |address: &str, scope: AddressScope| NetworkAddress {
        address: address.into(),
        scope: scope.into(),
        ..Default::default()
    };
    Body::Network(Network {
        interfaces: vec![NetworkInterface {
            link: Some(link),
            index: 2,
            kind: InterfaceKind::Physical.into(),
            enabled: true,
            carrier: true,
            addresses: vec![
                address("192.0.2.10/24", AddressScope::Global),
                address("fe80::5054:ff:fe12:3456/64", AddressScope::Link),
            ],
            dhcp: true,
            ..Default::default()
        }],
        routes: vec![DefaultRoute {
            gateway: "192.0.2.1".into(),
            ..Default::default()
        }],
        dns_servers: vec!["192.0.2.53".into()],
        primary: 2,
        primary_address: "192.0.2.10".into(),
        primary_ipv4: "192.0.2.10".into(),
        ..Default::default()
    })
}
