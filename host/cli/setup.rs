//! `qx-node network VM set`, `confirm` and `undo`: how an interface of the guest is configured. The guest undoes what is
//! not confirmed in time; this is who confirms it, once the new state has come through the channel.

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{
    ConfigureNetwork, Network, NetworkChange, NetworkOutcome, NetworkState,
};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::network::{address, address_json, ask, route, route_json};
use super::options::Typed;
use super::render::{given, pairs, plain};
use super::run::print_json;
use super::{Trouble, client, print, utf8, vm};

/// What only `set` takes.
pub const OPTIONS: &[&str] = &[
    "dhcp",
    "address",
    "gateway",
    "dns",
    "mtu",
    "confirm-within",
    "unconfirmed",
];

/// Nobody is to take an option for heard that was not.
pub fn refuse_options(typed: &Typed, all: &[&str], of: &str) -> Result<(), Trouble> {
    match all.iter().find(|option| typed.has(option)) {
        Some(option) => Err(Trouble::Usage(format!("--{option} goes with {of}"))),
        None => Ok(()),
    }
}

/// Whichever of them was typed.
pub fn change(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm(typed, 2)?;
    let [verb, what] = words else {
        return Err(unexpected());
    };
    refuse_options(typed, &["all"], "no other word")?;
    let (verb, what) = (utf8("the word", verb)?, utf8("the word", what)?);
    let mut client = match verb {
        "set" | "confirm" | "undo" => client(typed)?,
        _ => {
            let why = format!("{} is none of set, confirm, undo", plain(verb));
            return Err(Trouble::Usage(why));
        }
    };
    let change = match verb {
        "set" => set(&mut client, name, what, typed)?,
        _ => {
            refuse_options(typed, OPTIONS, "set")?;
            let Some(id) = u64::from_str_radix(what, 16).ok().filter(|id| *id > 0) else {
                let why = format!("{} is no change's number", plain(what));
                return Err(Trouble::Usage(why));
            };
            settle(&mut client, name, id, verb == "undo")?
        }
    };
    match typed.has("json") {
        true => print_json(&to_json(name, &change))?,
        false => print(&text(&change))?,
    };
    let is_wanted = match change.outcome() {
        NetworkOutcome::Undone => verb == "undo",
        NetworkOutcome::Confirmed => verb != "undo",
        _ => true,
    };
    if is_wanted && change.problem.is_empty() {
        return Ok(0);
    }
    let why = match change.outcome() {
        NetworkOutcome::Confirmed => "it was confirmed before, and stays".to_owned(),
        _ if is_wanted => change.problem,
        _ => format!("undone: {}", change.reason),
    };
    Err(Trouble::Failed(Failure::new(Code::Internal, why)))
}

fn set(
    client: &mut Client,
    name: &str,
    interface: &str,
    typed: &Typed,
) -> Result<NetworkChange, Trouble> {
    let list = |option| {
        let values = typed.values(option);
        let values = values.map(|value| utf8("the address", value).map(str::to_owned));
        values.collect::<Result<Vec<_>, _>>()
    };
    let number = |option| {
        let number = typed.positive(option).map_err(Trouble::Usage)?;
        Ok::<u32, Trouble>(number.unwrap_or(0))
    };
    let request = ConfigureNetwork {
        interface: interface.to_owned(),
        dhcp: typed.has("dhcp"),
        addresses: list("address")?,
        gateways: list("gateway")?,
        dns_servers: list("dns")?,
        mtu: number("mtu")?,
        confirm_seconds: number("confirm-within")?,
        ..Default::default()
    };
    if !request.dhcp && request.addresses.is_empty() {
        let why = "set takes --dhcp or --address";
        return Err(Trouble::Usage(why.to_owned()));
    }
    let made = configure(client, name, request.clone())?;
    if made.outcome() != NetworkOutcome::Pending || typed.has("unconfirmed") {
        return Ok(made);
    }
    let missing = lacks(&ask(client, name, true)?, &request);
    let mut settled = settle(client, name, made.change, missing.is_some())?;
    if let Some(why) = missing
        && settled.outcome() == NetworkOutcome::Undone
    {
        settled.reason = why;
    }
    Ok(settled)
}

/// What the guest does not show of it.
fn lacks(network: &Network, request: &ConfigureNetwork) -> Option<String> {
    let name = &request.interface;
    let is_it = |link: &quantix::message::agent::Interface| link.name == *name;
    let mut interfaces = network.interfaces.iter();
    let Some(of) = interfaces.find(|one| one.link.as_ref().is_some_and(is_it)) else {
        return Some(format!("the guest shows no {name} any more"));
    };
    let has = |text: &&String| {
        let wanted = parse(text);
        of.addresses.iter().any(|one| parse(&one.address) == wanted)
    };
    // Where not all are shown the guest's own word has to do.
    let missing = request.addresses.iter().find(|text| !has(text));
    let missing = missing.filter(|_| of.more_addresses == 0)?;
    Some(format!("the guest does not show {missing} on {name}"))
}

/// As numbers: of IPv6 addresses each has many texts.
fn parse(text: &str) -> Option<(std::net::IpAddr, &str)> {
    let (ip, prefix) = text.split_once('/')?;
    Some((ip.parse().ok()?, prefix))
}

fn settle(client: &mut Client, name: &str, id: u64, undo: bool) -> Result<NetworkChange, Trouble> {
    let request = ConfigureNetwork {
        confirm: id,
        undo,
        ..Default::default()
    };
    configure(client, name, request)
}

fn configure(
    client: &mut Client,
    name: &str,
    request: ConfigureNetwork,
) -> Result<NetworkChange, Trouble> {
    let id = client.ask_agent(name, Body::ConfigureNetwork(request))?;
    match client.wait_agent(id)? {
        Body::ConfigureNetworkResponse(change) => Ok(change),
        _ => Err(unexpected()),
    }
}

const fn outcome(change: &NetworkChange) -> &'static str {
    match change.outcome {
        1 => "unconfirmed",
        2 => "confirmed",
        3 => "undone",
        _ => "unknown",
    }
}

fn text(change: &NetworkChange) -> String {
    let state = |of: &Option<NetworkState>| {
        let Some(of) = of else {
            return String::new();
        };
        let addresses = of.addresses.iter().map(address).collect::<Vec<_>>();
        let routes = of.routes.iter().map(route).collect::<Vec<_>>();
        let mut said = vec![match addresses.is_empty() {
            true => "no address".to_owned(),
            false => addresses.join(", "),
        }];
        if !routes.is_empty() {
            said.push(format!("by {}", routes.join(", ")));
        }
        said.push(format!("MTU {}", of.mtu));
        said.join("; ")
    };
    let shown = match change.outcome() {
        NetworkOutcome::Pending => format!(
            "unconfirmed: `qx-node network VM confirm {:x}` within {} s keeps it",
            change.change, change.remaining_seconds
        ),
        NetworkOutcome::Undone => format!("undone: {}", plain(&change.reason)),
        _ => outcome(change).to_owned(),
    };
    pairs(&[
        ("Interface", plain(&change.interface)),
        ("Outcome", shown),
        ("By", plain(&change.manager)),
        ("Files", plain(&change.files.join(", "))),
        ("Before", state(&change.before)),
        ("Now", state(&change.after)),
        ("Problem", plain(&change.problem)),
    ])
}

fn to_json(vm: &str, change: &NetworkChange) -> Value {
    let state = |of: &Option<NetworkState>| {
        of.as_ref().map(|of| {
            json!({
                "addresses": of.addresses.iter().map(address_json).collect::<Vec<_>>(),
                "default_routes": of.routes.iter().map(route_json).collect::<Vec<_>>(),
                "mtu": of.mtu,
            })
        })
    };
    let is_pending = change.outcome() == NetworkOutcome::Pending;
    json!({
        "vm": vm,
        "change": format!("{:x}", change.change),
        "interface": change.interface,
        "outcome": outcome(change),
        "manager": change.manager,
        "profile": given(&change.profile),
        "files": change.files,
        "before": state(&change.before),
        "after": state(&change.after),
        "reason": given(&change.reason),
        "problem": given(&change.problem),
        "remaining_seconds": is_pending.then_some(change.remaining_seconds),
    })
}

#[cfg(test)]
mod tests {
    use quantix::message::agent::{Interface, NetworkAddress, NetworkInterface};

    use super::*;

    #[test]
    fn a_change_is_confirmed_only_if_the_guest_shows_it() {
        let network = |name: &str, addresses: &[&str]| Network {
            interfaces: vec![NetworkInterface {
                link: Some(Interface {
                    name: name.to_owned(),
                    ..Default::default()
                }),
                addresses: addresses
                    .iter()
                    .map(|address| NetworkAddress {
                        address: (*address).to_owned(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = ConfigureNetwork {
            interface: "eth0".to_owned(),
            addresses: vec!["10.0.0.5/24".to_owned(), "2001:db8:0::5/64".to_owned()],
            ..Default::default()
        };
        let both = network("eth0", &["10.0.0.5/24", "2001:db8::5/64"]);
        assert_eq!(lacks(&both, &request), None);
        let why = |network: &Network| lacks(network, &request).unwrap();
        let other = network("eth1", &["10.0.0.5/24", "2001:db8::5/64"]);
        assert!(why(&other).contains("no eth0 any more"));
        let mut one = network("eth0", &["10.0.0.5/24", "2001:db8::5/65"]);
        assert!(why(&one).contains("does not show 2001:db8:0::5/64"));
        one.interfaces[0].more_addresses = 1;
        assert_eq!(lacks(&one, &request), None);
    }

    #[test]
    fn what_a_guest_says_of_a_change_does_not_reach_the_terminal_as_it_is() {
        let evil = || "\u{1b}[2J".to_owned();
        let change = NetworkChange {
            outcome: NetworkOutcome::Undone.into(),
            interface: evil(),
            manager: evil(),
            files: vec![evil()],
            reason: evil(),
            problem: evil(),
            before: Some(NetworkState {
                addresses: vec![NetworkAddress {
                    address: evil(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = text(&change);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(
            text.contains("Before:     \\x1b[2J (unknown); MTU 0\n"),
            "{text}"
        );
    }
}
