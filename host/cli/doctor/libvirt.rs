//! What libvirt says of the VMs' channels, where it is there: asked by `virsh`, all domains at once.

use std::collections::BTreeMap;

use roxmltree::{Document, Node};

use super::super::tool;

/// What libvirt knows of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// As in `virsh list`: `running`, `paused`, `shut off`.
    pub state: String,
    /// All channels to unix sockets.
    pub channels: Vec<Channel>,
}

impl Domain {
    /// Its channel whose port has this name in the guest.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.name == name)
    }
}

/// A `<channel type='unix'>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// The port's name in the guest.
    pub name: String,
    /// QEMU makes the socket (`bind`), or connects to one.
    pub binds: bool,
    pub path: String,
    /// Something in the guest has the port open; of a VM that runs.
    pub open: Option<bool>,
}

/// All domains by their names, or why there are none to be had.
pub type Libvirt = Result<BTreeMap<String, Domain>, String>;

/// Asks libvirt, in two calls however many domains there are.
pub fn look() -> Libvirt {
    let virsh = |words: &[&str]| tool::virsh(&[&["--readonly"], words].concat(), b"");
    let states = states(&virsh(&["list", "--all"])?);
    let dumps: Vec<String> = states.keys().map(|name| dump(name)).collect();
    if dumps.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut domains = BTreeMap::new();
    for (name, channels) in documents(&virsh(&[&dumps.join("; ")])?) {
        let state = states.get(&name).cloned().unwrap_or_default();
        domains.insert(name, Domain { state, channels });
    }
    Ok(domains)
}

/// One command for virsh, which reads quotes as a shell does.
fn dump(name: &str) -> String {
    format!("dumpxml '{}'", name.replace('\'', "'\\''"))
}

/// The lines ` 1   name   running` of `virsh list --all`. A name may have spaces in it, a state has one at
/// most.
fn states(text: &str) -> BTreeMap<String, String> {
    let one = |line: &str| {
        let (_, rest) = line.trim().split_once(char::is_whitespace)?;
        let (name, state) = rest.trim().rsplit_once("   ")?;
        Some((name.trim().to_owned(), state.trim().to_owned()))
    };
    text.lines().filter_map(one).collect()
}

/// The names and the channels of documents that stand one behind the other.
fn documents(text: &str) -> Vec<(String, Vec<Channel>)> {
    const END: &str = "</domain>";
    let mut found = Vec::new();
    for piece in text.split_inclusive(END) {
        if let Ok(document) = Document::parse(piece.trim()) {
            let domain = document.root_element();
            let name = child(domain, "name").and_then(|name| name.text());
            found.extend(name.map(|name| (name.to_owned(), channels(domain))));
        }
    }
    found
}

fn channels(domain: Node) -> Vec<Channel> {
    let all = domain
        .descendants()
        .filter(|node| node.has_tag_name("channel"));
    let one = |node: Node| {
        let target = child(node, "target")?;
        let source = child(node, "source");
        let of = |key| source.and_then(|source| source.attribute(key));
        Some(Channel {
            name: target.attribute("name")?.to_owned(),
            binds: of("mode") == Some("bind"),
            path: of("path").unwrap_or_default().to_owned(),
            open: target.attribute("state").map(|state| state == "connected"),
        })
    };
    all.filter(|node| node.attribute("type") == Some("unix"))
        .filter_map(one)
        .collect()
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' id='1'>
  <name>web 1</name>
  <devices>
    <channel type='unix'>
      <source mode='bind' path='/var/run/quantix-kvm/vms/web1.agent.sock'/>
      <target type='virtio' name='org.quantix.agent.0' state='connected'/>
      <alias name='channel0'/>
    </channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/>
    </channel>
  </devices>
</domain>
";

    #[test]
    fn channels_are_read_from_several_documents() {
        let text = format!("{XML}\n<domain type='kvm'><name>db</name></domain>\n\nrest");
        let found = documents(&text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], ("db".to_owned(), Vec::new()));
        let (name, channels) = &found[0];
        assert_eq!((&name[..], channels.len()), ("web 1", 2));
        assert_eq!(channels[0].name, "org.quantix.agent.0");
        assert_eq!(channels[0].path, "/var/run/quantix-kvm/vms/web1.agent.sock");
        assert_eq!((channels[0].binds, channels[0].open), (true, Some(true)));
        assert_eq!((channels[1].binds, channels[1].open), (false, Some(false)));
        assert!(documents("error: no domain").is_empty());
    }

    #[test]
    fn states_are_read_from_the_list() {
        let text = " 1    web 1   running\n -    db      shut off\n\n";
        let states = states(text);
        assert_eq!(states["web 1"], "running");
        assert_eq!(states["db"], "shut off");
        assert_eq!(dump("a'b"), "dumpxml 'a'\\''b'");
    }
}
