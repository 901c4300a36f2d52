//! The recipes of docs/images.md. Tests take the commands out of the document, so what it says is what was tried.

use std::path::Path;
use std::process::Command;

use super::packages::run;

/// A block of the document: the test that its mark names, or nothing if that says that there is none.
pub struct Block {
    pub name: Option<String>,
    pub text: String,
}

pub fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images.md");
    std::fs::read_to_string(path).unwrap()
}

/// All of them, in their order. Each has its mark before it.
pub fn blocks() -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut mark, mut is_inside) = (None, false);
    for line in document().lines() {
        match line.strip_prefix("    ") {
            Some(code) if is_inside => {
                let block = found.last_mut().unwrap();
                block.text.push_str(code);
                block.text.push('\n');
            }
            Some(code) => {
                let mark: String = mark.take().unwrap_or_else(|| panic!("no mark: {code}"));
                found.push(Block {
                    name: mark.strip_prefix("test: ").map(str::to_owned),
                    text: format!("{code}\n"),
                });
                is_inside = true;
            }
            None if line.is_empty() => is_inside = false,
            None => {
                is_inside = false;
                let inner = line.strip_prefix("<!-- ");
                mark = inner
                    .and_then(|rest| rest.strip_suffix(" -->"))
                    .map(str::to_owned);
                let is_known = |mark: &String| {
                    ["test: ", "not tested: "]
                        .iter()
                        .any(|word| mark.starts_with(word))
                };
                assert!(mark.iter().all(is_known), "{line}");
            }
        }
    }
    found
}

/// The block of this name.
#[track_caller]
pub fn recipe(name: &str) -> String {
    let mut all = blocks().into_iter();
    let found = all.find(|block| block.name.as_deref() == Some(name));
    found
        .unwrap_or_else(|| panic!("docs/images.md has no {name}"))
        .text
}

/// Runs it there, with these variables: what it said.
#[track_caller]
pub fn follow(recipe: &str, place: &Path, variables: &[(&str, &Path)]) -> String {
    run(Command::new("sh")
        .args(["-euc", recipe])
        .current_dir(place)
        .envs(variables.iter().copied()))
}
