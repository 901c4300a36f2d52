//! The manual pages of the host, made of the tables that the program itself reads, and compared with those in
//! `docs/man`. Only tests have this; what is said beyond the tables is in `man/prose`.

#[path = "../../tests/man/roff.rs"]
mod roff;

mod prose;

use super::commands::COMMANDS;
use super::complete;
use super::groups::{GROUPS, MANY};
use super::options::{Command, Opt};
use crate::config;

use roff::{Page, bold, italic, usage};

/// An option that so many commands take is described once.
const COMMON: usize = 10;

/// The options that many commands take, and those commands.
fn common() -> Vec<(&'static Opt, Vec<&'static str>)> {
    let mut found: Vec<(&Opt, Vec<&str>)> = Vec::new();
    for command in COMMANDS {
        for option in command.options {
            match found.iter_mut().find(|(known, _)| is_same(known, option)) {
                Some((_, takers)) => takers.push(command.name),
                None => found.push((option, vec![command.name])),
            }
        }
    }
    found.retain(|(_, takers)| takers.len() >= COMMON);
    found
}

fn is_same(one: &Opt, other: &Opt) -> bool {
    (one.long, one.short, one.value, one.about)
        == (other.long, other.short, other.value, other.about)
}

/// `-n, --lines N`
fn tag(option: &Opt) -> String {
    let short = option.short.map(|c| bold(&format!("-{c}")) + ", ");
    let value = match option.value {
        None => String::new(),
        Some(value) if value.contains('|') => format!(" {}", usage(value)),
        Some(value) => format!(" {}", italic(value)),
    };
    format!(
        "{}{}{value}",
        short.unwrap_or_default(),
        bold(&format!("--{}", option.long))
    )
}

/// What an option does, as a sentence; a word that is one of its values is left as it is typed.
fn said(option: &Opt) -> String {
    let first = option.about.split([',', ' ']).next().unwrap_or_default();
    match complete::values(option).any(|value| value == first) {
        true => format!("{}.", option.about),
        false => sentence(option.about),
    }
}

fn sentence(about: &str) -> String {
    let mut sentence = about.to_owned();
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence + if about.ends_with('.') { "" } else { "." }
}

/// Of `all`, those that are meant: by their names, or where that is shorter by those that are not.
fn listed(takers: &[&str], all: &[&str]) -> String {
    let others: Vec<&str> = all
        .iter()
        .filter(|name| !takers.contains(name))
        .copied()
        .collect();
    let join = |names: &[&str]| {
        let names = format!("`{}`", names.join("`, `"));
        match names.rsplit_once(", ") {
            Some((names, last)) => format!("{names} and {last}"),
            None => names,
        }
    };
    match others.len() < takers.len() {
        true => format!("all commands but {}", join(&others)),
        false => join(takers),
    }
}

fn command_item(page: &mut Page, command: &Command, common: &[&Opt]) {
    let mut line = bold(command.name);
    if command.all_options().next().is_some() {
        line += &usage(" [OPTION]...");
    }
    if !command.usage.is_empty() {
        line += &format!(" {}", usage(command.usage));
    }
    page.item(&line, &sentence(command.about));
    if let Some((_, note)) = prose::NOTES.iter().find(|(name, _)| *name == command.name) {
        note.split("\n").for_each(|part| page.more(part));
    }
    let is_own = |option: &&Opt| !common.iter().any(|known| is_same(known, option));
    let mut own = command.options.iter().filter(is_own).peekable();
    if own.peek().is_some() {
        page.inward();
        own.for_each(|option| page.item(&tag(option), &said(option)));
        page.out();
    }
}

fn qx_node() -> Page {
    let mut page = Page::new(
        "qx-node",
        8,
        "commands, files and telemetry of a KVM host's virtual machines",
    );
    page.section("SYNOPSIS");
    for line in ["COMMAND [OPTION]... [WORD]...", "help [COMMAND]", "version"] {
        page.synopsis(&format!("{} {}", bold("qx-node"), usage(line)));
    }
    page.section("DESCRIPTION");
    prose::DESCRIPTION
        .iter()
        .for_each(|part| page.paragraph(part));

    page.section("COMMANDS");
    page.paragraph(prose::COMMANDS);
    let common = common();
    let described: Vec<&Opt> = common.iter().map(|(option, _)| *option).collect();
    for (about, names) in GROUPS {
        page.subsection(about);
        for command in COMMANDS
            .iter()
            .filter(|command| names.contains(&command.name))
        {
            command_item(&mut page, command, &described);
        }
    }

    let all: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    page.section("OPTIONS OF MOST COMMANDS");
    for (option, takers) in &common {
        let takers = listed(takers, &all);
        page.item(
            &tag(option),
            &format!("{} Taken by {takers}.", said(option)),
        );
    }
    page.item(
        &format!("{}, {}", bold("-h"), bold("--help")),
        "Print the command's help.",
    );

    page.section("MANY VMS");
    page.paragraph(&prose::MANY.replace("{}", &listed(MANY, &all)));
    for option in super::many::OPTIONS {
        page.item(&tag(option), &said(option));
    }

    page.section("STATES OF A VM");
    prose::STATES
        .iter()
        .for_each(|(state, about)| page.item(&bold(state), about));
    page.section("EXIT STATUS");
    prose::STATUSES
        .iter()
        .for_each(|(status, about)| page.item(&bold(status), about));
    page.paragraph(prose::RAN);
    prose::RAN_STATUSES
        .iter()
        .for_each(|(status, about)| page.item(&bold(status), about));
    page.section("ENVIRONMENT");
    prose::ENVIRONMENT.iter().for_each(|(names, about)| {
        let names: Vec<String> = names.iter().map(|name| bold(name)).collect();
        page.item(&names.join(", "), about);
    });
    page.section("FILES");
    let vms = config::VMS_DIR;
    for (path, about) in [
        (
            config::PATH.to_owned(),
            "The daemon's configuration: see quantix-node.conf(5).",
        ),
        (
            config::CONTROL.to_owned(),
            "The socket on which the daemon serves commands. Root's alone: whoever may open it is root in every VM.",
        ),
        (
            format!("{vms}/NAME.agent.sock"),
            "The channel of the VM that is called so. QEMU makes it, and serves one client: the daemon.",
        ),
        (
            format!("{vms}/NAME.qmp.sock"),
            "A monitor of QEMU's, where there is one. By it the daemon sees that a VM is paused, and that no agent is there.",
        ),
    ] {
        page.item(&italic(&path), about);
    }
    page.section("EXAMPLES");
    prose::EXAMPLES
        .iter()
        .for_each(|(about, lines)| page.example(about, lines));
    page.section("SEE ALSO");
    page.paragraph("quantix-node.conf(5), quantix-kvm-agent(8), quantix-kvm-agent.conf(5), virsh(1), systemctl(1)");
    page
}

fn node_conf() -> Page {
    roff::conf_page(
        "quantix-node.conf",
        "configuration of the daemon of a KVM host",
        config::PATH,
        NODE_CONF,
        "qx-node(8)",
    )
}

const NODE_CONF: &str = include_str!("../node.conf");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, KEYS};

    #[test]
    fn the_page_of_qx_node_is_what_its_tables_say() {
        qx_node().assert_stored("qx-node.8");
    }

    #[test]
    fn the_page_of_its_configuration_is_what_its_file_says() {
        node_conf().assert_stored("quantix-node.conf.5");
    }

    #[test]
    fn the_file_has_each_key_with_its_default() {
        let (_, keys) = roff::keys(NODE_CONF);
        let lines = keys
            .iter()
            .map(|key| format!("{:9} = {}", key.name, key.default));
        let lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines.join("\n") + "\n", Config::default().text());
        assert!(keys.iter().map(|key| &*key.name).eq(KEYS));
        assert!(keys.iter().all(|key| !key.about.is_empty()));
    }

    #[test]
    fn notes_are_of_commands_and_name_options_that_these_have() {
        for (name, note) in prose::NOTES {
            let command = COMMANDS.iter().find(|command| command.name == *name);
            let command = command.unwrap_or_else(|| panic!("no command {name}"));
            for word in note
                .split(['`', ' '])
                .filter_map(|word| word.strip_prefix("--"))
            {
                let is_of_virsh = note.contains("virsh attach-device VM FILE --live --config")
                    && ["live", "config"].contains(&word);
                let has = command.all_options().any(|option| option.long == word);
                assert!(has || is_of_virsh, "{name}: --{word}");
            }
        }
    }

    #[test]
    fn examples_are_of_commands_and_options_that_there_are() {
        for line in prose::EXAMPLES.iter().flat_map(|(_, lines)| lines.lines()) {
            let Some((_, line)) = line.split_once("qx-node ") else {
                continue;
            };
            let words: Vec<&str> = line.split(' ').take_while(|word| *word != "--").collect();
            let command = COMMANDS
                .iter()
                .find(|command| command.name == words[0])
                .unwrap();
            for long in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let long = long.split(':').next().unwrap();
                assert!(
                    command.all_options().any(|option| option.long == long),
                    "{line}"
                );
            }
        }
    }

    /// The names that stand behind `var(` and `var_os(`, or in the lists that are read so.
    #[test]
    fn whatever_is_read_of_the_environment_is_told() {
        let mut told: Vec<&str> = prose::ENVIRONMENT
            .iter()
            .flat_map(|(names, _)| *names)
            .copied()
            .collect();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = vec![root.join("host"), root.join("proto/rt")];
        let mut read = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                if !text.contains("env::") || path.ends_with("man.rs") {
                    continue;
                }
                read.extend(
                    text.split('"')
                        .skip(1)
                        .step_by(2)
                        .filter(|name| is_variable(name))
                        .map(str::to_owned),
                );
            }
        }
        // We set it ourselves, for those that we start.
        read.retain(|name| name != crate::cli::live::ONE_OF_MANY);
        read.sort_unstable();
        read.dedup();
        told.sort_unstable();
        assert_eq!(read, told);
    }

    fn is_variable(name: &str) -> bool {
        let known = ["TERM", "LANG"].contains(&name);
        let is_one = |c: char| c.is_ascii_uppercase() || c == '_';
        known || (name.contains('_') && name.chars().all(is_one))
    }
}
