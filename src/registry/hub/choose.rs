//! Which files of a repository are the model.

use super::super::manifest::Hub;
use super::super::resolve::is_gguf;
use super::Spec;
use crate::error::{Error, Result};

/// The files to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub files: Vec<String>,
    /// The SHA-256 that the manifest gives for a file, in the order of `files`.
    pub sha256: Vec<Option<String>>,
    /// What else could have been taken, in words.
    pub others: Option<String>,
}

impl Choice {
    fn of(files: Vec<String>, others: Option<String>) -> Self {
        Self { sha256: vec![None; files.len()], files, others }
    }

    pub fn of_source(hub: &Hub) -> Self {
        Self {
            files: hub.files.iter().map(|file| file.name.clone()).collect(),
            sha256: hub.files.iter().map(|file| file.sha256.clone()).collect(),
            others: None,
        }
    }
}

/// 4-bit types in the order in which they are taken when nobody says which.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q4_0"];

/// Chooses among the names of a repository's files: the one that the user names, else the only GGUF, else the first of
/// `PREFERRED`, else the safetensors folder.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when there is nothing to choose or too much, with the choices.
pub fn choose(names: &[String], spec: &Spec) -> Result<Choice> {
    let ggufs: Vec<&String> = names.iter().filter(|name| is_model(name)).collect();
    let chosen = match (&spec.file, &ggufs[..]) {
        (Some(file), _) => named(file, names, &ggufs, spec)?,
        (None, []) => return folder(names, spec),
        (None, [only]) => only,
        (None, several) => {
            PREFERRED.iter().find_map(|wanted| several.iter().find(|name| has_word(name, wanted))).ok_or_else(|| {
                refusal("the repository has several GGUF files: say which", spec).help(say_which(&ggufs, spec))
            })?
        }
    };
    if chosen.contains("-of-0") && is_gguf(chosen.as_ref()) {
        return Err(refusal("GGUF files in several parts are not supported", spec).help("choose a file that is whole"));
    }
    let others = (spec.file.is_none() && ggufs.len() > 1).then(|| say_which(&ggufs, spec));
    Ok(Choice::of(vec![chosen.clone()], others))
}

/// The file of this name; or the only GGUF that has it as a word of its name, as `Q8_0`.
fn named<'n>(file: &str, names: &'n [String], ggufs: &[&'n String], spec: &Spec) -> Result<&'n String> {
    if let Some(found) = names.iter().find(|name| *name == file) {
        if is_gguf(found.as_ref()) {
            return Ok(found);
        }
        return Err(refusal("only GGUF files can be named", spec)
            .help("leave the file out to take the whole folder with its safetensors"));
    }
    let mut having = ggufs.iter().filter(|name| has_word(name, file));
    if let (Some(only), None) = (having.next(), having.next()) {
        return Ok(only);
    }
    let error = refusal(&format!("the repository has no file `{file}`"), spec);
    Err(if ggufs.is_empty() { error } else { error.help(say_which(ggufs, spec)) })
}

/// Vision parts of a model lie beside it and are none.
pub(super) fn is_model(name: &str) -> bool {
    is_gguf(name.as_ref()) && !name.to_ascii_lowercase().contains("mmproj")
}

/// Whether `word` is part of `name`, bounded by punctuation on both sides: `Q4_K_M` is no word of `Q4_K_M_L`.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_uppercase(), word.to_ascii_uppercase());
    let bound = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    name.match_indices(&word)
        .any(|(at, _)| bound(name[..at].chars().next_back()) && bound(name[at + word.len()..].chars().next()))
}

/// What a safetensors model has beside its weights; those that a repository has of them are taken.
const BESIDE: [&str; 5] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

fn folder(names: &[String], spec: &Spec) -> Result<Choice> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let mut files = vec!["config.json".to_owned()];
    if has("model.safetensors") {
        files.push("model.safetensors".to_owned());
    } else if has("model.safetensors.index.json") {
        files.push("model.safetensors.index.json".to_owned());
        files.extend(names.iter().filter(|name| shard(name).is_some()).cloned());
        let count = files.len() - 2;
        if count == 0 || files[2..].iter().any(|name| shard(name) != Some(count)) {
            return Err(refusal("the repository's weights are incomplete", spec));
        }
    }
    if files.len() == 1 || !has("config.json") {
        return Err(refusal("the repository has neither a GGUF file nor config.json with safetensors", spec)
            .help("taper reads .gguf files and folders with config.json, tokenizer.json and safetensors"));
    }
    files.extend(BESIDE.iter().filter(|name| has(name)).map(|name| (*name).to_owned()));
    Ok(Choice::of(files, None))
}

/// N of `model-00001-of-0000N.safetensors`.
fn shard(name: &str) -> Option<usize> {
    let (number, count) = name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    number.parse::<usize>().ok()?;
    count.parse().ok()
}

fn refusal(what: &str, spec: &Spec) -> Error {
    Error::model(what).at(format!("hf:{}", spec.repo))
}

/// At most twenty of them: some repositories have hundreds.
fn say_which(ggufs: &[&String], spec: &Spec) -> String {
    const MOST: usize = 20;
    let more = ggufs.len().saturating_sub(MOST);
    let mut names: Vec<&str> = ggufs.iter().take(MOST).map(|name| name.as_str()).collect();
    let rest = format!("and {more} more");
    if more > 0 {
        names.push(&rest);
    }
    format!("hf:{}:FILE chooses; there are {}", spec.repo, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(file: Option<&str>, names: &[&str]) -> std::result::Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let spec = Spec { repo: "a/b".into(), file: file.map(str::to_owned) };
        choose(&names, &spec).map(|choice| choice.files).map_err(|e| e.to_string())
    }

    #[test]
    fn the_only_gguf_is_taken_and_of_several_a_preferred_one() {
        assert_eq!(chosen(None, &["README.md", "x.gguf", "mmproj-x.gguf"]).unwrap(), ["x.gguf"]);
        let many = ["m-Q2_K.gguf", "m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_M_L.gguf"];
        assert_eq!(chosen(None, &many).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen(None, &many[..2]).unwrap(), ["m-Q4_0.gguf"]);
        assert_eq!(chosen(None, &["m.q8_0.gguf", "m.q4_0.gguf"]).unwrap(), ["m.q4_0.gguf"]);
        let error = chosen(None, &["m-Q2_K.gguf", "m-Q8_0.gguf"]).unwrap_err();
        assert!(error.contains("several GGUF") && error.contains("there are m-Q2_K.gguf, m-Q8_0.gguf"), "{error}");
    }

    #[test]
    fn a_named_file_is_taken_by_its_name_or_its_type() {
        let many = ["m-Q2_K.gguf", "m-Q8_0.gguf", "config.json"];
        assert_eq!(chosen(Some("m-Q2_K.gguf"), &many).unwrap(), ["m-Q2_K.gguf"]);
        assert_eq!(chosen(Some("q8_0"), &many).unwrap(), ["m-Q8_0.gguf"]);
        assert!(chosen(Some("Q4_0"), &many).unwrap_err().contains("no file `Q4_0`"));
        assert!(chosen(Some("config.json"), &many).unwrap_err().contains("only GGUF"));
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert!(chosen(Some(parts[0]), &parts).unwrap_err().contains("several parts"));
    }

    #[test]
    fn without_a_gguf_the_safetensors_folder_is_taken_whole() {
        let one = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin"];
        assert_eq!(chosen(None, &one).unwrap(), ["config.json", "model.safetensors", "tokenizer.json"]);
        let index = "model.safetensors.index.json";
        let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert_eq!(
            chosen(None, &["config.json", index, first, second]).unwrap(),
            ["config.json", index, first, second]
        );
        assert!(chosen(None, &["config.json", index, first]).unwrap_err().contains("incomplete"));
        assert!(chosen(None, &["model.safetensors"]).unwrap_err().contains("neither a GGUF"));
        assert!(chosen(None, &[]).unwrap_err().contains("neither a GGUF"));
    }
}
