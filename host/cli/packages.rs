//! `qx-node packages`: what is installed in the guest.

use quantix::message::Body;
use quantix::message::agent::{ListPackages, Package};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::pages::Pages;
use super::render::{bytes, given, or_dash, plain, table};
use super::run::print_json;
use super::{Trouble, client, print, vm_and_words};

/// `qx-node packages`
pub fn packages(typed: &Typed) -> Result<u8, Trouble> {
    let (name, words) = vm_and_words(typed, "the name")?;
    let (manager, mut all) = list(&mut client(typed)?, name)?;
    all.retain(|one| words.is_empty() || words.iter().any(|word| one.name.contains(&**word)));
    if typed.has("json") {
        let all = all.iter().map(|one| to_json(name, &manager, one)).collect();
        return print_json(&Value::Array(all));
    }
    if all.is_empty() {
        let words = words.iter().map(|word| plain(word)).collect::<Vec<_>>();
        return print(&format!("no package with {}\n", words.join(" or ")));
    }
    print(&text(&all))
}

/// All of them, in as many answers as it takes.
fn list(client: &mut Client, name: &str) -> Result<(String, Vec<Package>), Trouble> {
    let mut all: Vec<Package> = Vec::new();
    let mut pages = Pages::of("packages");
    let mut after = String::new();
    loop {
        let id = client.ask_agent(
            name,
            Body::ListPackages(ListPackages {
                after: after.clone(),
            }),
        )?;
        let Body::PackageList(part) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        let is_last = part.last.is_empty();
        if !is_last {
            pages.more(&part, part.last > after)?;
        }
        all.extend(part.packages);
        if is_last {
            return Ok((part.manager, all));
        }
        after = part.last;
    }
}

fn text(all: &[Package]) -> String {
    let head = ["PACKAGE", "VERSION", "ARCH", "SIZE", "TROUBLE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in all {
        rows.push(vec![
            plain(&one.name),
            plain(&one.version),
            or_dash(&one.architecture),
            bytes(one.size),
            plain(&one.trouble),
        ]);
    }
    if all.iter().all(|one| one.trouble.is_empty()) {
        rows.iter_mut().for_each(|row| row.truncate(head.len() - 1));
    }
    table(&rows)
}

fn to_json(vm: &str, manager: &str, one: &Package) -> Value {
    json!({
        "vm": vm,
        "manager": manager,
        "name": one.name,
        "version": one.version,
        "architecture": given(&one.architecture),
        "size": one.size,
        "trouble": given(&one.trouble),
    })
}
